/*
 * What a Linux guest says of itself to those who read its memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_COREINFO_H
#define HW_RESTRICTED_MEMORY_QEMU_COREINFO_H

#include "hw/restricted-memory/qemu/backend.h"

/*
 * The VMCOREINFO of the guest's kernel, an ELF note with its header, in @view
 * (debug-view.h): its address, and its size in *@size. NULL if there is none.
 */
const uint8_t *restricted_coreinfo(const RestrictedMemory *rm,
                                   const uint8_t *view, size_t *size);

#endif
