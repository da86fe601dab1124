/*
 * CCA: a token that nobody has signed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It has the form of a token (RMM, A7.2.3, and RFC 8949 for CBOR): a map with a
 * platform token and a realm token, each a COSE_Sign1 (RFC 9052). The claims of
 * the realm are its own. The platform is a sentence, and so are both
 * signatures.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/cca/token.h"

/* RFC 8949, 3.1 */
enum { CBOR_UINT = 0, CBOR_BYTES = 2, CBOR_TEXT = 3, CBOR_ARRAY = 4,
       CBOR_MAP = 5, CBOR_TAG = 6 };

#define TAG_CCA_TOKEN       399
#define TAG_COSE_SIGN1      18
#define CCA_PLATFORM_TOKEN  44234
#define CCA_REALM_TOKEN     44241

/* RMM, A7.2.3.1 and A7.2.3.2 */
#define CLAIM_CHALLENGE         10
#define CLAIM_PROFILE           265
#define CLAIM_PERSONALIZATION   44235
#define CLAIM_HASH_ALGORITHM    44236
#define CLAIM_RIM               44238
#define CLAIM_REMS              44239

static const char fake[] = "cvmlab: emulated, not authentic";

static void put_head(GByteArray *out, int major, uint64_t value)
{
    uint8_t head[9] = { major << 5 };
    unsigned size = 1;

    if (value < 24) {
        head[0] |= value;
    } else if (value <= UINT8_MAX) {
        head[0] |= 24;
        head[1] = value;
        size = 2;
    } else {
        g_assert(value <= UINT16_MAX);
        head[0] |= 25;
        head[1] = value >> 8;
        head[2] = value;
        size = 3;
    }
    g_byte_array_append(out, head, size);
}

static void put_bytes(GByteArray *out, const void *bytes, size_t size)
{
    put_head(out, CBOR_BYTES, size);
    g_byte_array_append(out, bytes, size);
}

static void put_text(GByteArray *out, const char *text)
{
    put_head(out, CBOR_TEXT, strlen(text));
    g_byte_array_append(out, (const uint8_t *)text, strlen(text));
}

static GByteArray *platform_claims(void)
{
    GByteArray *out = g_byte_array_new();

    put_head(out, CBOR_MAP, 1);
    put_head(out, CBOR_UINT, CLAIM_PROFILE);
    put_text(out, fake);
    return out;
}

static GByteArray *realm_claims(const CcaClaims *claims)
{
    GByteArray *out = g_byte_array_new();
    size_t size = claims->algorithm ? 64 : 32;

    put_head(out, CBOR_MAP, 5);
    put_head(out, CBOR_UINT, CLAIM_CHALLENGE);
    put_bytes(out, claims->challenge, CCA_WORD_BYTES);
    put_head(out, CBOR_UINT, CLAIM_PERSONALIZATION);
    put_bytes(out, claims->personalization, CCA_WORD_BYTES);
    put_head(out, CBOR_UINT, CLAIM_HASH_ALGORITHM);
    put_text(out, claims->algorithm ? "sha-512" : "sha-256");
    put_head(out, CBOR_UINT, CLAIM_RIM);
    put_bytes(out, claims->measurements[0], size);
    put_head(out, CBOR_UINT, CLAIM_REMS);
    put_head(out, CBOR_ARRAY, CCA_MEASUREMENTS - 1);
    for (int i = 1; i < CCA_MEASUREMENTS; i++) {
        put_bytes(out, claims->measurements[i], size);
    }
    return out;
}

/* A COSE_Sign1 of @payload: no header, and a sentence for its signature. */
static GByteArray *unsigned_token(GByteArray *payload)
{
    GByteArray *out = g_byte_array_new();

    put_head(out, CBOR_TAG, TAG_COSE_SIGN1);
    put_head(out, CBOR_ARRAY, 4);
    put_bytes(out, "", 0);
    put_head(out, CBOR_MAP, 0);
    put_bytes(out, payload->data, payload->len);
    put_bytes(out, fake, strlen(fake));
    g_byte_array_unref(payload);
    return out;
}

size_t cca_fake_token(const CcaClaims *claims, uint8_t bytes[CCA_TOKEN_MAX])
{
    g_autoptr(GByteArray) platform = unsigned_token(platform_claims());
    g_autoptr(GByteArray) realm = unsigned_token(realm_claims(claims));
    g_autoptr(GByteArray) out = g_byte_array_new();

    put_head(out, CBOR_TAG, TAG_CCA_TOKEN);
    put_head(out, CBOR_MAP, 2);
    put_head(out, CBOR_UINT, CCA_PLATFORM_TOKEN);
    put_bytes(out, platform->data, platform->len);
    put_head(out, CBOR_UINT, CCA_REALM_TOKEN);
    put_bytes(out, realm->data, realm->len);
    g_assert(out->len <= CCA_TOKEN_MAX);
    memcpy(bytes, out->data, out->len);
    return out->len;
}
