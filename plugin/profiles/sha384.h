/*
 * SHA-384, for launch digests and measurement registers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SHA384_H
#define HW_RESTRICTED_MEMORY_PROFILES_SHA384_H

#define SHA384_BYTES 48

void restricted_sha384(const void *data, size_t size,
                       uint8_t digest[SHA384_BYTES]);

#endif
