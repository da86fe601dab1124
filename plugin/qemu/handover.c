/*
 * Handover: another QEMU takes over a running guest, with the same files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Migration mode cpr-transfer moves CPUs and devices and leaves RAM where it
 * is. A section of the stream carries the rest of our state. It also
 * identifies the files: the destination refuses other files before it has
 * loaded anything, and then the source continues.
 *
 * The owner word in the header names the process that may run the guest and
 * change page states. The source clears it when it saves. The first of the two
 * that runs the guest, or is asked for a change, sets it and keeps it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "migration/blocker.h"
#include "migration/client-options.h"
#include "migration/cpr.h"
#include "migration/vmstate.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/refuse.h"

#define PROFILE_BYTES 32

/* Of one actor, which has the same index in both processes. */
typedef struct ActorCounts {
    uint64_t faults, converted;
} ActorCounts;

/* The section's content: the source fills it, the destination checks it. */
typedef struct Handover {
    RestrictedMemory *rm;
    uint8_t profile[PROFILE_BYTES];
    uint64_t size;
    uint32_t layout;
    uint32_t cpus;
    uint64_t files[2 * RESTRICTED_FDS];     /* device and inode of each */
    uint64_t generation;
    uint32_t policy;
    bool sealed;
    uint32_t held;
    bool held_running;
    int32_t nactors;
    ActorCounts *actors;
} Handover;

static Handover handover;
static RestrictedHandoverTo goes;   /* BQL */

static void identify_files(const RestrictedMemory *rm,
                           uint64_t files[2 * RESTRICTED_FDS])
{
    memset(files, 0, 2 * RESTRICTED_FDS * sizeof(*files));
    for (int i = 0; i < RESTRICTED_FDS; i++) {
        struct stat st;

        if (rm->fds[i] >= 0 && fstat(rm->fds[i], &st) == 0) {
            files[2 * i] = st.st_dev;
            files[2 * i + 1] = st.st_ino;
        }
    }
}

bool restricted_incoming(void)
{
    return runstate_check(RUN_STATE_INMIGRATE);
}

bool restricted_handover_check(RestrictedMemory *rm, Error **errp)
{
    if (restricted_incoming() && !rm->restores
        && cpr_get_incoming_mode() != MIG_MODE_CPR_TRANSFER) {
        error_setg(errp, "%s cannot take an incoming migration: a stream "
                   "would overwrite private memory; drop -incoming, use mode "
                   "cpr-transfer, or give the files of a saved guest", TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    return true;
}

void restricted_handover_goes(RestrictedHandoverTo to)
{
    goes = to;
}

bool restricted_handover_is_on(void)
{
    return migrate_mode() == MIG_MODE_CPR_TRANSFER;
}

/* Is the guest in another process, or on its way there? */
static bool in_transit(void)
{
    return runstate_check(RUN_STATE_POSTMIGRATE)
           || runstate_check(RUN_STATE_FINISH_MIGRATE)
           || runstate_check(RUN_STATE_INMIGRATE);
}

static bool take_ownership(RestrictedMemory *rm, uint64_t *owner)
{
    uint64_t me = getpid();

    *owner = qatomic_cmpxchg(&rm->core.shared->owner, 0, me);
    return *owner == 0 || *owner == me;
}

bool restricted_own(RestrictedMemory *rm, Error **errp)
{
    uint64_t owner;

    if (in_transit()) {
        error_setg(errp, "the guest is being handed over to another QEMU, "
                   "or has been");
        return false;
    }
    if (!take_ownership(rm, &owner)) {
        error_setg(errp, "the guest's memory belongs to process %" PRIu64,
                   owner);
        return false;
    }
    return true;
}

bool restricted_may_change(RestrictedMemory *rm, Error **errp)
{
    if (qemu_shutdown_requested_get() || qemu_reset_requested_get()) {
        error_setg(errp, "the guest is being shut down or reset");
        return false;
    }
    return restricted_own(rm, errp);
}

/* Two processes that run the same guest would destroy it. */
static void vm_state_changed(void *opaque, bool running, RunState state)
{
    RestrictedMemory *rm = opaque;
    uint64_t owner;

    if (running && !take_ownership(rm, &owner)) {
        error_report("the guest runs in process %" PRIu64 ": this process "
                     "must not run it as well", owner);
        exit(EXIT_FAILURE);
    }
}

static int handover_pre_save(void *opaque)
{
    Handover *h = opaque;
    RestrictedMemory *rm = h->rm;

    if (goes == RESTRICTED_TO_ANOTHER && !restricted_handover_is_on()) {
        /* Blockers look at the mode when a migration starts, not after. */
        restricted_refuse(rm, RESTRICTED_ALL_MEMORY, "migration", NULL);
        error_report("migration: the mode is not cpr-transfer any more");
        return -EPERM;
    }
    strpadcpy((char *)h->profile, sizeof(h->profile), rm->profile_name, 0);
    h->size = MEMORY_BACKEND(rm)->size;
    h->layout = rm->layout;
    h->cpus = MACHINE(qdev_get_machine())->smp.cpus;
    identify_files(rm, h->files);
    h->generation = qatomic_read(&rm->core.shared->generation);
    h->policy = qatomic_read(&rm->policy);
    h->sealed = qatomic_read(&rm->sealed);
    h->held = rm->held;
    h->held_running = rm->held_running;
    h->nactors = rm->actors->len;
    h->actors = g_renew(ActorCounts, h->actors, h->nactors);
    for (int i = 0; i < h->nactors; i++) {
        RestrictedActor *actor = g_ptr_array_index(rm->actors, i);

        h->actors[i].faults = qatomic_read(&actor->faults);
        h->actors[i].converted = qatomic_read(&actor->converted);
    }
    if (goes == RESTRICTED_TO_ANOTHER) {
        qatomic_cmpxchg(&rm->core.shared->owner, (uint64_t)getpid(), 0);
    }
    return 0;
}

static const char *handover_fault(const Handover *h)
{
    const RestrictedMemory *rm = h->rm;
    uint64_t files[2 * RESTRICTED_FDS];

    identify_files(rm, files);
    if (strncmp((char *)h->profile, rm->profile_name,
                sizeof(h->profile))) {
        return "the profiles differ";
    }
    if (h->size != MEMORY_BACKEND(rm)->size) {
        return "the memory sizes differ";
    }
    if (h->layout != rm->layout) {
        return "the layouts differ";
    }
    if (h->cpus != MACHINE(qdev_get_machine())->smp.cpus) {
        return "the numbers of CPUs differ";
    }
    if (goes != RESTRICTED_TO_A_COPY
        && memcmp(h->files, files, sizeof(files))) {
        return "the memory files differ";
    }
    if (h->policy >= RESTRICTED_MEMORY_POLICY__MAX) {
        return "its access policy is unknown";
    }
    if (goes != RESTRICTED_TO_ITSELF
        && h->generation != qatomic_read(&rm->core.shared->generation)) {
        return "page states have changed meanwhile";
    }
    if (h->nactors != (int)rm->actors->len) {
        return "the devices differ (one that was plugged in or out while the "
               "VM ran is not in the other QEMU)";
    }
    return NULL;
}

/* QEMU allocates what it loads, and a rewind is not the first time. */
static int handover_pre_load(void *opaque)
{
    Handover *h = opaque;

    g_clear_pointer(&h->actors, g_free);
    return 0;
}

static int handover_post_load(void *opaque, int version)
{
    Handover *h = opaque;
    RestrictedMemory *rm = h->rm;
    const char *fault = handover_fault(h);

    if (fault) {
        error_report("this is not the guest that is handed over: %s", fault);
        return -EINVAL;
    }
    if (goes != RESTRICTED_TO_ITSELF) {
        rmem_take_phase(&rm->core);
    }
    qatomic_set(&rm->policy, h->policy);
    qatomic_set(&rm->sealed, h->sealed);
    rm->held = h->held;
    rm->held_running = h->held_running;
    for (int i = 0; i < h->nactors; i++) {
        RestrictedActor *actor = g_ptr_array_index(rm->actors, i);

        qatomic_set(&actor->faults, h->actors[i].faults);
        qatomic_set(&actor->converted, h->actors[i].converted);
    }
    return 0;
}

static const VMStateDescription vmstate_actor = {
    .name = "restricted-memory/actor",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(faults, ActorCounts),
        VMSTATE_UINT64(converted, ActorCounts),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_handover = {
    .name = "restricted-memory",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = handover_pre_save,
    .pre_load = handover_pre_load,
    .post_load = handover_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_BUFFER(profile, Handover),
        VMSTATE_UINT64(size, Handover),
        VMSTATE_UINT32(layout, Handover),
        VMSTATE_UINT32(cpus, Handover),
        VMSTATE_UINT64_ARRAY(files, Handover, 2 * RESTRICTED_FDS),
        VMSTATE_UINT64(generation, Handover),
        VMSTATE_UINT32(policy, Handover),
        VMSTATE_BOOL(sealed, Handover),
        VMSTATE_UINT32(held, Handover),
        VMSTATE_BOOL(held_running, Handover),
        VMSTATE_INT32(nactors, Handover),
        VMSTATE_STRUCT_VARRAY_ALLOC(actors, Handover, nactors, 0,
                                    vmstate_actor, ActorCounts),
        VMSTATE_END_OF_LIST()
    },
};

/* The files have the memory of a guest that belongs to nobody (snapshot.c). */
static bool waits_for_saved(const RestrictedMemory *rm)
{
    return restricted_incoming()
           && cpr_get_incoming_mode() != MIG_MODE_CPR_TRANSFER
           && qatomic_read(&rm->core.shared->head)
           && !qatomic_read(&rm->core.shared->owner);
}

bool restricted_handover_init(RestrictedMemory *rm, Error **errp)
{
    error_setg(&rm->migration_blocker,
               "restricted memory '%s' cannot be migrated or saved: its "
               "private pages must not enter a stream; use mode cpr-transfer",
               object_get_canonical_path_component(OBJECT(rm)));
    if (compat_allow_cpr_transfer_only(&rm->migration_blocker, errp) < 0) {
        return false;
    }
    handover.rm = rm;
    vmstate_register_any(NULL, &vmstate_handover, &handover);
    qemu_add_vm_change_state_handler(vm_state_changed, rm);
    if (!restricted_incoming()) {
        qatomic_set(&rm->core.shared->owner, (uint64_t)getpid());
    }
    rm->restores = waits_for_saved(rm);
    return true;
}
