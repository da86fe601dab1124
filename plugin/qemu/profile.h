/*
 * A profile: what a guest interface adds to the rules of core/.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_PROFILE_H
#define HW_RESTRICTED_MEMORY_QEMU_PROFILE_H

#include "exec/hwaddr.h"
#include "hw/restricted-memory/core/rmem.h"
#include "hw/restricted-memory/qemu/hooks-cpu.h"

typedef struct RestrictedMemory RestrictedMemory;

/* The view of RAM that an address asks for, where one of its bits says so. */
typedef enum RestrictedWant {
    RESTRICTED_BY_STATE,        /* the one that the page is in */
    RESTRICTED_PRIVATE,
    RESTRICTED_SHARED,
    RESTRICTED_NEVER,           /* none: the access is a fault in any state */
} RestrictedWant;

typedef struct RestrictedAlias {
    hwaddr gpa;                 /* without the bit */
    RestrictedWant want;
} RestrictedAlias;

/* Operations that any target has; all are optional. */
typedef struct RestrictedProfile {
    const char *name;
    bool touch_is_fault;        /* touching a pending page: memory-fault exit */
    bool devices_load;          /* devices are trusted until the launch ends */
    bool hides_state;           /* CPU state is encrypted: see cpu-state.c */
    bool poison_is_fault;       /* touching a poisoned page: the fault below */
    /* Operations of one architecture: qemu/<architecture>/ defines the type. */
    const struct RestrictedArchOps *arch_ops;

    /* The backend is complete, no CPU exists yet. */
    bool (*attach)(RestrictedMemory *rm, Error **errp);
    /* The machine is complete, slots are known, no reset yet. */
    bool (*machine_done)(RestrictedMemory *rm, Error **errp);
    /* After each reset of the machine, the first included. BQL. */
    void (*launch)(RestrictedMemory *rm);
    /* What the guest waits for, so that its state cannot be saved; or NULL. BQL. */
    const char *(*unfinished)(RestrictedMemory *rm);
    /* The guest goes back in time: what it waits for, it has not asked for. */
    void (*forget_requests)(RestrictedMemory *rm);

    /*
     * The bit of a guest physical address that asks for a view, 0 if none. A
     * device's address must not carry it. Valid once the machine is done.
     */
    uint64_t (*view_bit)(const RestrictedMemory *rm);
    /*
     * The same, where a device's address may carry it: with and without it the
     * device reaches shared memory. Valid before the machine is built.
     */
    uint64_t (*device_bit)(const RestrictedMemory *rm);
    /* Is memory unprotected until the guest asks for protection? */
    bool (*is_late)(const RestrictedMemory *rm);
    /* What a guest physical address asks for. */
    RestrictedAlias (*alias)(const RestrictedMemory *rm,
                             const RestrictedFill *fill);
    /*
     * With alias: the page is not in the view that is wanted. It returns only
     * where a fill may fail (RestrictedArch.fills_fail).
     */
    void (*fault)(RestrictedMemory *rm, const RestrictedFill *fill,
                  RestrictedAlias alias, RmemState state);
    /*
     * The address is in no slot: where is it in the CPU root? It may be
     * RESTRICTED_NOWHERE, as above.
     */
    hwaddr (*mmio)(RestrictedMemory *rm, const RestrictedFill *fill,
                   RestrictedAlias alias);
    /* Has the guest shared the page at @gpa without telling the host? */
    bool (*is_shared_untold)(RestrictedMemory *rm, hwaddr gpa);
} RestrictedProfile;

#endif
