/*
 * A property that holds a fixed number of bytes, in base64.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_BASE64_H
#define HW_RESTRICTED_MEMORY_PROFILES_BASE64_H

/* Decode @text into @bytes; false and @errp unless it is @size bytes. */
bool restricted_base64_decode(const char *text, const char *name,
                              uint8_t *bytes, size_t size, Error **errp);

#endif
