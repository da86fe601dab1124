/*
 * Actors: everything in the host that touches guest memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_ACTORS_H
#define HW_RESTRICTED_MEMORY_QEMU_ACTORS_H

#include "hw/restricted-memory/core/rmem.h"

typedef struct RestrictedMemory RestrictedMemory;

typedef struct RestrictedActor {
    RmemActor kind;
    uint16_t index;             /* its number in the event ring */
    const char *name;           /* NULL: a PCI device at bus and devfn */
    struct PCIBus *bus;         /* NULL: no device, or an unplugged one; BQL */
    int devfn;
    uint64_t faults;            /* atomic */
    uint64_t converted;         /* atomic */
    /* Four bits a page: see judge.c. Both: RestrictedMemory.seen_lock */
    unsigned long *seen;
    struct RestrictedActor *next_seen;
} RestrictedActor;

void restricted_actors_init(RestrictedMemory *rm);
void restricted_actor_add(RestrictedMemory *rm, RestrictedActor *actor,
                          RmemActor kind, const char *name);
char *restricted_actor_name(const RestrictedActor *actor);
/* The actor behind an access that comes from no device. */
RestrictedActor *restricted_actor_running(RestrictedMemory *rm, bool debug);

#endif
