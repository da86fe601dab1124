/*
 * Judging a host access to a page that is not shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_JUDGE_H
#define HW_RESTRICTED_MEMORY_QEMU_JUDGE_H

#include "hw/restricted-memory/qemu/backend.h"

typedef struct RestrictedAccess {
    RestrictedMemory *rm;
    RestrictedActor *actor;
    uint64_t offset;
    bool write;
} RestrictedAccess;

/* A host access to a page that is not shared: where does it go? */
AddressSpace *restricted_judge(const RestrictedAccess *access, RmemState state);

/*
 * The states of @pages have changed: the next access to each is a new fault, and
 * a debugger sees them on their present side.
 */
void restricted_states_changed(RestrictedMemory *rm,
                               const RestrictedPages *pages);

/* An actor, by its index, was seen where a bit of its bitmap says. */
typedef struct RestrictedSeen {
    uint64_t actor, bit;
} RestrictedSeen;

/* Who was seen where: RestrictedSeen. BQL, and no vCPU runs. */
GArray *restricted_seen_save(RestrictedMemory *rm);
/* Are there such actors and pages? */
bool restricted_seen_fits(const RestrictedMemory *rm, const GArray *saved);
void restricted_seen_restore(RestrictedMemory *rm, const GArray *saved);

/*
 * A device's address, in @access->offset, carries the bit that only a guest's
 * may have: nothing is there. True: the device does not get an error.
 */
bool restricted_judge_stray(const RestrictedAccess *access);

#endif
