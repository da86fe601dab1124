/*
 * SEV-SNP: the ID block, by which a guest's owner says what may be launched.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_ID_BLOCK_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_ID_BLOCK_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* FW, table "ID Block Structure" */
enum { ID_DIGEST = 0, ID_FAMILY = 48, ID_IMAGE = 64, ID_VERSION = 80,
       ID_SVN = 84, ID_POLICY = 88 };

/* A property in base64; @blob stays as it is without it. */
bool sev_get_blob(const SevGuest *sev, const char *name, uint8_t *blob,
                  size_t size, Error **errp);
/* Take "id-block", "id-auth" and "author-key-enabled". */
bool sev_id_get(SevGuest *sev, Error **errp);
/* False and @errp: the block is not that of this launch. */
bool sev_id_check(const SevGuest *sev, Error **errp);

#endif
