/*
 * The guard: what the host sees where guest RAM is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_GUARD_H
#define HW_RESTRICTED_MEMORY_QEMU_GUARD_H

#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/actors.h"

#define TYPE_RESTRICTED_GUARD "restricted-memory-guard"

/* Takes the place of RAM for the host: passes shared pages, judges the rest. */
typedef struct RestrictedGuard {
    IOMMUMemoryRegion iommu;
    RestrictedMemory *rm;
    RestrictedActor *actor;     /* NULL: determined at each access */
    bool cpu_physical;          /* in the CPU root: accesses without the TLB */
    uint64_t known[128];        /* atomic, by block: see guard_block() */
} RestrictedGuard;

void restricted_guard_init(RestrictedMemory *rm);
/* Set up a guard; @actor NULL: determine the actor at each access. */
void restricted_guard_setup(RestrictedMemory *rm, RestrictedGuard *guard,
                            RestrictedActor *actor, const char *name);

#endif
