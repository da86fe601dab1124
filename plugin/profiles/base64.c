/*
 * A property that holds a fixed number of bytes, in base64.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/base64.h"
#include "hw/restricted-memory/profiles/base64.h"

bool restricted_base64_decode(const char *text, const char *name,
                              uint8_t *bytes, size_t size, Error **errp)
{
    size_t got;
    g_autofree uint8_t *decoded = qbase64_decode(text, -1, &got, errp);

    if (!decoded) {
        return false;
    }
    if (got != size) {
        error_setg(errp, "%s must be %zu bytes in base64 (got %zu)", name,
                   size, got);
        return false;
    }
    memcpy(bytes, decoded, size);
    return true;
}
