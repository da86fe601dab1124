/*
 * The machine's reset: a fresh launch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_RESET_H
#define HW_RESTRICTED_MEMORY_QEMU_RESET_H

#include "hw/restricted-memory/qemu/backend.h"

void restricted_reset_init(RestrictedMemory *rm);

#endif
