/*
 * A guarded address space for each device.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_SPACES_H
#define HW_RESTRICTED_MEMORY_QEMU_SPACES_H

#include "hw/restricted-memory/qemu/guard.h"

/* A guarded address space of one device. */
typedef struct RestrictedSpace {
    RestrictedActor actor;
    RestrictedGuard guard;
    MemoryRegion root;
    MemoryRegion system;
    AddressSpace as;
    MemoryRegion stray;     /* addresses with RestrictedProfile.view_bit */
} RestrictedSpace;

/* A device's address space; @name NULL: the name of the PCI device there. */
RestrictedSpace *restricted_space_new(RestrictedMemory *rm, const char *name);

void restricted_spaces_init(RestrictedMemory *rm);
void restricted_spaces_machine_done(RestrictedMemory *rm);
/* The profile is ready: from now on a wrong bit in an address has a name. */
void restricted_spaces_find_strays(RestrictedMemory *rm);

#endif
