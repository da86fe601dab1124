/*
 * What the state of a VM consists of: for the two files that know.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_VM_STATE_PARTS_H
#define HW_RESTRICTED_MEMORY_QEMU_VM_STATE_PARTS_H

#include "hw/restricted-memory/qemu/vm-state.h"

typedef struct OtherRam {
    RAMBlock *block;
    uint64_t size;
    uint8_t *content;
} OtherRam;

struct RestrictedVmState {
    uint8_t *devices;
    size_t devices_bytes;
    GArray *others;             /* OtherRam */
};

#endif
