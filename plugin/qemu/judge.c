/*
 * Judging a host access to a page that is not shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The policy's verdict decides where the access goes; whoever made it and
 * whatever was decided is recorded, once per page, actor and direction.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/lockable.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

#define SEEN_MAX 65536

/*
 * True the first time since the last change of states: a retry is not a new
 * fault, an access after a conversion is.
 */
static bool actor_fault_is_new(RestrictedMemory *rm, RestrictedActor *actor,
                               uint64_t page, bool write)
{
    uint64_t generation = qatomic_read(&rm->core.shared->generation);
    gint64 key = page << 1 | write;

    QEMU_LOCK_GUARD(&rm->seen_lock);
    if (!actor->seen) {
        actor->seen = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                            g_free, NULL);
    }
    /* Bounded: a guest must not make us grow. */
    if (actor->seen_generation != generation
        || g_hash_table_size(actor->seen) >= SEEN_MAX) {
        g_hash_table_remove_all(actor->seen);
        actor->seen_generation = generation;
    }
    return g_hash_table_add(actor->seen, g_memdup2(&key, sizeof(key)));
}

static void access_record(const RestrictedAccess *access, RmemState state,
                          RmemVerdict verdict)
{
    RestrictedMemory *rm = access->rm;
    RestrictedActor *actor = access->actor;
    uint64_t page = access->offset >> RMEM_PAGE_BITS;
    uint64_t gpa = restricted_offset_to_gpa(rm, access->offset);
    RmemRecord rec = {
        .kind = RMEM_K_HOST_FAULT, .gpa = gpa, .pages = 1,
        .actor = actor->kind, .device = actor->index,
        .from = state, .to = state, .verdict = verdict,
        .flags = access->write ? RMEM_F_WRITE : 0,
        .rip = restricted_guest_rip(current_cpu),
    };

    rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, 1);
    if (!actor_fault_is_new(rm, actor, page, access->write)) {
        return;
    }
    if (verdict != RMEM_V_ALLOW) {
        rmem_count(&rm->core, RMEM_C_HOST_FAULTS, 1);
        qatomic_inc(&actor->faults);
    }
    trace_rmem_host_fault(gpa, actor->index, access->write, state, verdict);
    restricted_record(rm, &rec);
}

/* Convert on behalf of a device: policy share, or the guest has done it. */
static bool access_share(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    RmemState old;

    if (!restricted_share_page(rm, access->offset >> RMEM_PAGE_BITS, &old)) {
        return false;
    }
    if (old != RMEM_SHARED) {
        RmemRecord rec = {
            .kind = RMEM_K_CONVERT, .pages = 1,
            .gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1),
            .actor = access->actor->kind, .device = access->actor->index,
            .from = old, .to = RMEM_SHARED, .verdict = RMEM_V_SHARE,
            .flags = access->write ? RMEM_F_WRITE : 0,
            .rip = restricted_guest_rip(current_cpu),
        };

        qatomic_inc(&access->actor->converted);
        rmem_count(&rm->core, RMEM_C_CONVERSIONS, 1);
        trace_rmem_page_convert(rec.gpa, 1, old, RMEM_SHARED);
        restricted_record(rm, &rec);
    }
    return true;
}

/* A guest that tells nobody has shared the page, and a device is the first. */
static bool access_finds_shared(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    uint64_t gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1);

    if (!rm->profile->is_shared_untold || access->actor->kind != RMEM_A_DEVICE
        || !rm->profile->is_shared_untold(rm, gpa) || !access_share(access)) {
        return false;
    }
    rmem_count(&rm->core, RMEM_C_IMPLICIT_CONVERSIONS, 1);
    return true;
}

void restricted_stop_vm(void)
{
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_PAUSED);
    cpu_stop_current();
}

/* The loader places the launch image until the guest's kernel runs. */
static bool access_is_loading(const RestrictedAccess *access)
{
    const RestrictedMemory *rm = access->rm;

    return access->actor == &rm->loader
           || (!qatomic_read(&rm->sealed)
               && (access->actor == rm->fw_cfg
                   || (rm->profile->devices_load
                       && access->actor->kind == RMEM_A_DEVICE)));
}

static AddressSpace *access_load(const RestrictedAccess *access, RmemState state)
{
    RestrictedMemory *rm = access->rm;
    RmemState old = state;

    if (state == RMEM_PENDING && !access->write) {
        return &rm->zero_as;    /* nothing is there, and stays away */
    }
    if (state == RMEM_PENDING) {
        WITH_QEMU_LOCK_GUARD(&rm->lock) {
            rmem_apply_page(&rm->core, access->offset >> RMEM_PAGE_BITS,
                            RMEM_LOAD, &old);
        }
    }
    if (old == RMEM_PENDING) {
        RmemRecord rec = {
            .kind = RMEM_K_LOAD, .pages = 1,
            .gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1),
            .actor = RMEM_A_LOADER, .device = RMEM_NO_DEVICE,
            .from = old, .to = RMEM_PRIVATE,
        };

        restricted_record(rm, &rec);
    }
    return &rm->private_as;
}

/* A host access to a page that is not shared: where does it go? */
AddressSpace *restricted_judge(const RestrictedAccess *access, RmemState state)
{
    RestrictedMemory *rm = access->rm;
    RmemVerdict verdict = (RmemVerdict)qatomic_read(&rm->policy);

    if (state != RMEM_POISONED) {
        if (access_is_loading(access)) {
            return access_load(access, state);
        }
        if (rm->debuggable && (access->actor->kind == RMEM_A_MONITOR
                               || access->actor->kind == RMEM_A_GDB)) {
            access_record(access, state, RMEM_V_ALLOW);
            return &rm->private_as;
        }
        if (access_finds_shared(access)
            || (verdict == RMEM_V_SHARE && access_share(access))) {
            return &rm->shared_as;
        }
    }
    if (verdict == RMEM_V_SHARE
        || (state == RMEM_POISONED && verdict == RMEM_V_ZERO)) {
        verdict = RMEM_V_DENY;
    }
    access_record(access, state, verdict);
    if (verdict == RMEM_V_STOP) {
        restricted_stop_vm();
    }
    return verdict == RMEM_V_ZERO ? &rm->zero_as : &rm->blocked_as;
}
