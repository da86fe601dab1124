/*
 * memory-backend-restricted: the object that everything here is about.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_BACKEND_H
#define HW_RESTRICTED_MEMORY_QEMU_BACKEND_H

#include "qapi/qapi-types-restricted-memory.h"
#include "qom/object.h"
#include "system/hostmem.h"
#include "hw/restricted-memory/qemu/arch.h"
#include "hw/restricted-memory/qemu/guard.h"
#include "hw/restricted-memory/qemu/lock.h"
#include "hw/restricted-memory/qemu/slots.h"

#define TYPE_MEMORY_BACKEND_RESTRICTED "memory-backend-restricted"
OBJECT_DECLARE_SIMPLE_TYPE(RestrictedMemory, MEMORY_BACKEND_RESTRICTED)

enum { RESTRICTED_FD_PRIVATE, RESTRICTED_FD_SHARED, RESTRICTED_FD_TABLE,
       RESTRICTED_FD_RING, RESTRICTED_FD_STACKS, RESTRICTED_FDS };

struct RestrictedMemory {
    HostMemoryBackend parent_obj;

    /* Properties */
    char *profile_name;
    bool layout_set;
    RestrictedMemoryLayout layout;
    RestrictedMemoryPolicy policy;      /* atomic after realize */
    RestrictedMemoryPending pending;
    RestrictedMemoryEvents events;
    bool debuggable;
    int64_t fds[RESTRICTED_FDS];

    /* State */
    Rmem core;
    RmemStacks stacks;
    const RestrictedArch *arch;
    const RestrictedProfile *profile;
    RestrictedLock lock;                /* see lock.h */
    RestrictedSlot *slots;              /* fixed once the machine is done */
    unsigned nslots;
    bool sealed;                        /* atomic: the loader is not trusted */
    bool code_awaited;                  /* atomic: see RestrictedArch.code */
    uint64_t noise;                     /* seed of this launch, see content.c */
    unsigned held;                      /* invalidations begun; BQL */
    bool held_running;

    /* Regions */
    MemoryRegion private_ram;
    MemoryRegion shared_ram;            /* split layout only */
    MemoryRegion blocked;               /* bus error, reads zeros */
    MemoryRegion zero;                  /* reads zeros, drops writes */
    AddressSpace private_as, shared_as, blocked_as, zero_as;
    RestrictedGuard guard;              /* what system memory sees */
    RestrictedGuard cpu_guard;          /* what the CPU root has below the views */
    MemoryRegion cpu_root, cpu_system;
    GPtrArray *spaces;                  /* RestrictedSpace, BQL */
    bool finds_strays;                  /* they know the profile's bit; BQL */
    GPtrArray *actors;                  /* RestrictedActor, append only, BQL */
    RestrictedActor monitor, gdb, host, loader;
    RestrictedActor *fw_cfg;            /* one of the spaces' actors */
    RestrictedLock seen_lock;           /* a leaf */
    RestrictedActor *seen;              /* those with faults; seen_lock */
    bool hole_is_ram;                   /* RAM without a slot is like any other */
    bool logs_dirty;                    /* atomic: see dirty.h */
    bool restores;                      /* waits for a saved guest; BQL */

    Error *migration_blocker;
    Notifier machine_done;
};

/* The backend in use, NULL if none. Set once, never cleared. */
RestrictedMemory *restricted_memory(void);

/* The backend of that id; NULL and @errp if there is none. */
RestrictedMemory *restricted_memory_by_id(const char *id, Error **errp);

static inline bool restricted_is_split(const RestrictedMemory *rm)
{
    return rm->layout == RESTRICTED_MEMORY_LAYOUT_SPLIT;
}

static inline MemoryRegion *restricted_shared_ram(RestrictedMemory *rm)
{
    return restricted_is_split(rm) ? &rm->shared_ram : &rm->private_ram;
}

/* The RAM block that holds the content of pages in @state. */
static inline MemoryRegion *restricted_ram_of(RestrictedMemory *rm,
                                              RmemState state)
{
    return state == RMEM_SHARED ? restricted_shared_ram(rm)
                                : &rm->private_ram;
}

#endif
