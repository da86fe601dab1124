/*
 * A target without restricted memory: see arch.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/arch.h"

const RestrictedArch *restricted_arch(void)
{
    return NULL;
}
