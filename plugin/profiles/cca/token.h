/*
 * CCA: attestation tokens.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CCA_TOKEN_H
#define HW_RESTRICTED_MEMORY_PROFILES_CCA_TOKEN_H

#include "hw/restricted-memory/profiles/cca/guest.h"

/* What a token is about; all of it goes to the service as it is here. */
typedef struct QEMU_PACKED CcaClaims {
    uint32_t length;                    /* big-endian: bytes that follow */
    char magic[8];                      /* CCA_CLAIMS_MAGIC */
    uint8_t algorithm;                  /* 0 SHA-256, 1 SHA-512 */
    uint8_t reserved[7];
    uint8_t challenge[CCA_WORD_BYTES];
    uint8_t personalization[CCA_WORD_BYTES];
    uint8_t measurements[CCA_MEASUREMENTS][CCA_WORD_BYTES];
} CcaClaims;

#define CCA_CLAIMS_MAGIC "cvmlcca1"

/*
 * fake-token.c: a token that nobody has signed, and that says so. Returns its
 * size.
 */
size_t cca_fake_token(const CcaClaims *claims, uint8_t bytes[CCA_TOKEN_MAX]);

#endif
