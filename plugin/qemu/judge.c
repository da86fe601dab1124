/*
 * Judging a host access to a page that is not shared.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The policy's verdict decides where the access goes. Actor and verdict are
 * recorded, once per page, actor and direction for as long as the state of that
 * page does not change: a retry is not a new fault, an access after a conversion
 * or an acceptance is. What happens to other pages makes no difference.
 *
 * Who was seen is a bitmap of an actor, made at its first fault: four bits for
 * each page of the guest, so a guest cannot make it grow. Two are for addresses
 * that carry the profile's bit; all those that lead nowhere share the last page.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/trace.h"

#define SEEN_BITS 4     /* a page: read, write, and the same by a stray address */

static unsigned long seen_bit(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    uint64_t page = access->offset >> RMEM_PAGE_BITS;
    bool stray = page >= rm->core.pages;

    if (stray) {
        page = restricted_page_at(rm, access->offset
                                      & ~rm->profile->view_bit(rm));
        page = MIN(page, rm->core.pages);   /* RESTRICTED_NO_PAGE: the last */
    }
    return SEEN_BITS * page + 2 * stray + access->write;
}

static void add_seen(RestrictedMemory *rm, RestrictedActor *actor)
{
    if (!actor->seen) {
        actor->seen = bitmap_new(SEEN_BITS * (rm->core.pages + 1));
        actor->next_seen = rm->seen;
        qatomic_set(&rm->seen, actor);
    }
}

static bool fault_is_new(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    RestrictedActor *actor = access->actor;

    RESTRICTED_LOCK_GUARD(&rm->seen_lock);
    add_seen(rm, actor);
    return !test_and_set_bit(seen_bit(access), actor->seen);
}

/* The page behind the last one is that of stray addresses. */
static void forget_faults(RestrictedMemory *rm, const RestrictedPages *pages)
{
    unsigned long end = SEEN_BITS * (pages->first + pages->count);

    if (!qatomic_read(&rm->seen)) {
        return;
    }
    RESTRICTED_LOCK_GUARD(&rm->seen_lock);
    for (RestrictedActor *actor = rm->seen; actor; actor = actor->next_seen) {
        unsigned long bit = find_next_bit(actor->seen, end,
                                          SEEN_BITS * pages->first);

        /* Bit by bit: what was never set has no memory yet. */
        for (; bit < end; bit = find_next_bit(actor->seen, end, bit + 1)) {
            clear_bit(bit, actor->seen);
        }
    }
}

void restricted_states_changed(RestrictedMemory *rm,
                               const RestrictedPages *pages)
{
    forget_faults(rm, pages);
    restricted_debug_view_moved(rm, pages);
}

GArray *restricted_seen_save(RestrictedMemory *rm)
{
    GArray *saved = g_array_new(false, false, sizeof(RestrictedSeen));
    unsigned long end = SEEN_BITS * (rm->core.pages + 1);

    RESTRICTED_LOCK_GUARD(&rm->seen_lock);
    for (RestrictedActor *actor = rm->seen; actor; actor = actor->next_seen) {
        RestrictedSeen seen = {
            .actor = actor->index, .bit = find_first_bit(actor->seen, end),
        };

        for (; seen.bit < end;
             seen.bit = find_next_bit(actor->seen, end, seen.bit + 1)) {
            g_array_append_val(saved, seen);
        }
    }
    return saved;
}

bool restricted_seen_fits(const RestrictedMemory *rm, const GArray *saved)
{
    for (unsigned i = 0; i < saved->len; i++) {
        const RestrictedSeen *seen = &g_array_index(saved, RestrictedSeen, i);

        if (seen->actor >= rm->actors->len
            || seen->bit >= SEEN_BITS * (rm->core.pages + 1)) {
            return false;
        }
    }
    return true;
}

void restricted_seen_restore(RestrictedMemory *rm, const GArray *saved)
{
    forget_faults(rm, &(RestrictedPages){ 0, rm->core.pages + 1 });
    RESTRICTED_LOCK_GUARD(&rm->seen_lock);
    for (unsigned i = 0; i < saved->len; i++) {
        const RestrictedSeen *seen = &g_array_index(saved, RestrictedSeen, i);
        RestrictedActor *actor = g_ptr_array_index(rm->actors, seen->actor);

        add_seen(rm, actor);
        set_bit(seen->bit, actor->seen);
    }
}

static void fault_record(const RestrictedAccess *access, uint64_t gpa,
                         RmemState state, RmemVerdict verdict)
{
    RestrictedMemory *rm = access->rm;
    RestrictedActor *actor = access->actor;
    RmemRecord rec = {
        .kind = RMEM_K_HOST_FAULT, .gpa = gpa, .pages = 1,
        .actor = actor->kind, .device = actor->index,
        .from = state, .to = state, .verdict = verdict,
        .flags = access->write ? RMEM_F_WRITE : 0,
        .pc = restricted_access_pc(rm),
    };

    if (verdict != RMEM_V_ALLOW) {
        rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, 1);
    }
    if (!fault_is_new(access)) {
        return;
    }
    if (verdict != RMEM_V_ALLOW) {
        rmem_count(&rm->core, RMEM_C_HOST_FAULTS, 1);
        qatomic_inc(&actor->faults);
    }
    trace_rmem_host_fault(gpa, actor->index, access->write, state, verdict);
    restricted_record(rm, &rec);
}

static void access_record(const RestrictedAccess *access, RmemState state,
                          RmemVerdict verdict)
{
    fault_record(access, restricted_offset_to_gpa(access->rm, access->offset),
                 state, verdict);
}

/* Convert for a device: by policy share, or because the guest has shared. */
static bool access_share(const RestrictedAccess *access, bool untold)
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
            .flags = (access->write ? RMEM_F_WRITE : 0)
                     | (untold ? RMEM_F_IMPLICIT : 0),
            .pc = restricted_access_pc(rm),
        };

        qatomic_inc(&access->actor->converted);
        rmem_count(&rm->core, RMEM_C_CONVERSIONS, 1);
        trace_rmem_page_convert(rec.gpa, 1, old, RMEM_SHARED);
        restricted_record(rm, &rec);
    }
    return true;
}

/* Has a guest shared the page without telling, and a device is the first? */
static bool access_finds_shared(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    uint64_t gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1);

    if (!rm->profile->is_shared_untold || access->actor->kind != RMEM_A_DEVICE
        || !rm->profile->is_shared_untold(rm, gpa)
        || !access_share(access, true)) {
        return false;
    }
    rmem_count(&rm->core, RMEM_C_IMPLICIT_CONVERSIONS, 1);
    return true;
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
        return &rm->zero_as;    /* the page stays without content */
    }
    if (state == RMEM_PENDING) {
        WITH_RESTRICTED_LOCK(&rm->lock) {
            rmem_apply_page(&rm->core, access->offset >> RMEM_PAGE_BITS,
                            RMEM_LOAD, &old);
        }
    }
    if (old == RMEM_PENDING) {
        RestrictedPages page = { access->offset >> RMEM_PAGE_BITS, 1 };
        RmemRecord rec = {
            .kind = RMEM_K_LOAD, .pages = 1,
            .gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1),
            .actor = RMEM_A_LOADER, .device = RMEM_NO_DEVICE,
            .from = old, .to = RMEM_PRIVATE,
        };

        restricted_states_changed(rm, &page);
        restricted_record(rm, &rec);
    }
    return &rm->private_as;
}

static void access_stop(const RestrictedAccess *access, uint64_t gpa)
{
    RestrictedPlace at = { current_cpu, restricted_access_pc(access->rm) };
    g_autofree char *name = restricted_actor_name(access->actor);

    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_HOST_ACCESS, at,
                            "%s %s private memory at 0x%" PRIx64, name,
                            access->write ? "wrote to" : "read", gpa);
    restricted_stop_vm();
}

/*
 * A debugger reads and writes what is there. A page without content stays so: a
 * load from a hole of its file would give it storage.
 */
static AddressSpace *access_debug(const RestrictedAccess *access,
                                  RmemState state)
{
    RestrictedMemory *rm = access->rm;
    bool lost = state == RMEM_PENDING && access->write;

    access_record(access, state, lost ? RMEM_V_DENY : RMEM_V_ALLOW);
    if (lost) {
        return &rm->blocked_as;
    }
    return state == RMEM_PENDING ? &rm->zero_as : &rm->private_as;
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
            return access_debug(access, state);
        }
        if (access_finds_shared(access)
            || (verdict == RMEM_V_SHARE && access_share(access, false))) {
            return &rm->shared_as;
        }
    }
    if (verdict == RMEM_V_SHARE
        || (state == RMEM_POISONED && verdict == RMEM_V_ZERO)) {
        verdict = RMEM_V_DENY;
    }
    access_record(access, state, verdict);
    if (verdict == RMEM_V_STOP) {
        access_stop(access, restricted_offset_to_gpa(rm, access->offset));
    }
    return verdict == RMEM_V_ZERO ? &rm->zero_as : &rm->blocked_as;
}

bool restricted_judge_stray(const RestrictedAccess *access)
{
    RestrictedMemory *rm = access->rm;
    RmemVerdict verdict = (RmemVerdict)qatomic_read(&rm->policy);
    uint64_t gpa = access->offset & ~rm->profile->view_bit(rm);
    uint64_t page = restricted_page_at(rm, gpa);

    if (verdict == RMEM_V_SHARE) {
        verdict = RMEM_V_DENY;
    }
    fault_record(access, access->offset,
                 page == RESTRICTED_NO_PAGE ? RMEM_SHARED
                                            : rmem_state(&rm->core, page),
                 verdict);
    if (verdict == RMEM_V_STOP) {
        access_stop(access, access->offset);
    }
    return verdict == RMEM_V_ZERO;
}
