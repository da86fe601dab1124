/*
 * SEV-SNP: the ID block, by which a guest's owner says what may be launched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * FW, SNP_LAUNCH_FINISH: a block that is not of this launch ends it. The two
 * signatures are not verified here, as QEMU has no ECDSA: the controller does
 * it before it starts QEMU.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "hw/restricted-memory/profiles/base64.h"
#include "hw/restricted-memory/profiles/sha384.h"
#include "hw/restricted-memory/profiles/sev/id-block.h"

/* FW, table "ID Authentication Information Structure" */
enum { AUTH_ID_ALGORITHM = 0, AUTH_AUTHOR_ALGORITHM = 4, AUTH_ID_KEY = 0x240,
       AUTH_AUTHOR_KEY = 0x880, AUTH_SIZE = 4096 };

#define KEY_SIZE        0x404
#define KEY_P384        2           /* its first word: the curve */
#define ECDSA_P384      1           /* with SHA-384: the only algorithm */
#define BLOCK_VERSION   1

bool sev_get_blob(const SevGuest *sev, const char *name, uint8_t *blob,
                  size_t size, Error **errp)
{
    g_autofree char *text = object_property_get_str(sev->object, name, NULL);

    return !text || !*text
           || restricted_base64_decode(text, name, blob, size, errp);
}

static bool get_key(const uint8_t *auth, unsigned algorithm, unsigned key,
                    const char *name, uint8_t *digest, Error **errp)
{
    if (ldl_le_p(auth + algorithm) != ECDSA_P384
        || ldl_le_p(auth + key) != KEY_P384) {
        error_setg(errp, "id-auth: its %s is not a key for ECDSA with P-384 "
                   "and SHA-384", name);
        return false;
    }
    restricted_sha384(auth + key, KEY_SIZE, digest);
    return true;
}

bool sev_id_get(SevGuest *sev, Error **errp)
{
    g_autofree uint8_t *auth = g_malloc0(AUTH_SIZE);
    bool author = object_property_get_bool(sev->object, "author-key-enabled",
                                           NULL);

    if (!sev_get_blob(sev, "id-block", sev->id_block, sizeof(sev->id_block),
                      errp)
        || !sev_get_blob(sev, "id-auth", auth, AUTH_SIZE, errp)) {
        return false;
    }
    sev->has_id_block = !buffer_is_zero(sev->id_block, sizeof(sev->id_block));
    if (sev->has_id_block == buffer_is_zero(auth, AUTH_SIZE)
        || (author && !sev->has_id_block)) {
        error_setg(errp, "id-block, id-auth: there must be both, and "
                   "author-key-enabled needs them");
        return false;
    }
    if (!sev->has_id_block) {
        return true;
    }
    return get_key(auth, AUTH_ID_ALGORITHM, AUTH_ID_KEY, "ID key",
                   sev->id_key_digest, errp)
           && (!author || get_key(auth, AUTH_AUTHOR_ALGORITHM,
                                  AUTH_AUTHOR_KEY, "author key",
                                  sev->author_key_digest, errp));
}

bool sev_id_check(const SevGuest *sev, Error **errp)
{
    const uint8_t *block = sev->id_block;

    if (!sev->has_id_block) {
        return true;
    }
    if (ldl_le_p(block + ID_VERSION) != BLOCK_VERSION) {
        error_setg(errp, "id-block: version %u, and firmware knows version %u",
                   ldl_le_p(block + ID_VERSION), BLOCK_VERSION);
    } else if (ldq_le_p(block + ID_POLICY) != sev->policy) {
        error_setg(errp, "id-block: it is for policy 0x%" PRIx64 ", and this "
                   "guest's is 0x%" PRIx64, ldq_le_p(block + ID_POLICY),
                   sev->policy);
    } else if (memcmp(block + ID_DIGEST, sev->measurement, SHA384_BYTES)) {
        g_autofree char *text = g_malloc(2 * SHA384_BYTES + 1);

        qemu_hexdump_to_buffer(text, 2 * SHA384_BYTES + 1, sev->measurement,
                               SHA384_BYTES);
        error_setg(errp, "id-block: its launch digest is not that of this "
                   "guest, %s", text);
    } else {
        return true;
    }
    return false;
}
