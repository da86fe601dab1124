/*
 * SHA-384, for launch digests and measurement registers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/sha384.h"

void restricted_sha384(const void *data, size_t size,
                       uint8_t digest[SHA384_BYTES])
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA384);
    gsize length = SHA384_BYTES;

    g_checksum_update(sum, data, size);
    g_checksum_get_digest(sum, digest, &length);
}
