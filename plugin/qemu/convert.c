/*
 * Changing page states, and the content that goes with them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No guest CPU runs meanwhile: this is called in the main thread with the vCPUs
 * paused, or in one vCPU's exclusive section.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/storage.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/trace.h"

static void file_punch(RestrictedMemory *rm, int which, uint64_t first,
                       uint64_t count)
{
    const RestrictedPages pages = { first, count };

    restricted_punch(rm, which, &pages);
    restricted_forget_code(which == RESTRICTED_FD_SHARED ? &rm->shared_ram
                                                         : &rm->private_ram,
                           &pages);
}

static void file_copy(RestrictedMemory *rm, MemoryRegion *to,
                      MemoryRegion *from, uint64_t first, uint64_t count)
{
    uint8_t *dst = memory_region_get_ram_ptr(to);
    const uint8_t *src = memory_region_get_ram_ptr(from);

    memcpy(dst + (first << RMEM_PAGE_BITS), src + (first << RMEM_PAGE_BITS),
           count << RMEM_PAGE_BITS);
    restricted_mark_dirty(rm, to, &(RestrictedPages){ first, count });
    restricted_forget_code(to, &(RestrictedPages){ first, count });
}

typedef struct ChangeWalk {
    RestrictedMemory *rm;
    RestrictedChange *change;
} ChangeWalk;

/* Move or drop the content of a run, in the split layout. */
static void run_content_split(RestrictedMemory *rm, RmemRun run, RmemState to,
                              bool preserve)
{
    bool was_shared = run.state == RMEM_SHARED;
    bool is_shared = to == RMEM_SHARED;

    if (was_shared == is_shared) {
        return;
    }
    if (preserve && run.state != RMEM_PENDING) {
        file_copy(rm, is_shared ? &rm->shared_ram : &rm->private_ram,
                  is_shared ? &rm->private_ram : &rm->shared_ram,
                  run.first, run.count);
    }
    if (preserve) {
        rmem_settle(&rm->core, run.first, run.count);
    }
    file_punch(rm, is_shared ? RESTRICTED_FD_PRIVATE : RESTRICTED_FD_SHARED,
               run.first, run.count);
}

static void run_content(RestrictedMemory *rm, const RestrictedChange *change,
                        RmemRun run, RmemState to)
{
    if (change->event == RMEM_DISCARD || change->event == RMEM_POISON) {
        bool shared = restricted_is_split(rm) && run.state == RMEM_SHARED;

        file_punch(rm, shared ? RESTRICTED_FD_SHARED : RESTRICTED_FD_PRIVATE,
                   run.first, run.count);
        if (shared && to == RMEM_SHARED) {
            /* The range was just punched, so there is room. */
            restricted_allocate(rm, RESTRICTED_FD_SHARED,
                                &(RestrictedPages){ run.first, run.count });
        }
    } else if (restricted_is_split(rm)) {
        run_content_split(rm, run, to, change->preserve);
    } else if (!change->preserve && run.state != to) {
        file_punch(rm, RESTRICTED_FD_PRIVATE, run.first, run.count);
    }
}

static RmemKind change_kind(RmemEvent event)
{
    switch (event) {
    case RMEM_ACCEPT:
        return RMEM_K_ACCEPT;
    case RMEM_DISCARD:
        return RMEM_K_DISCARD;
    case RMEM_POISON:
        return RMEM_K_POISON;
    default:
        return RMEM_K_CONVERT;
    }
}

static void run_record(const ChangeWalk *walk, RmemEvent event, RmemRun run,
                       RmemState to)
{
    uint64_t gpa = restricted_page_to_gpa(walk->rm, run.first);

    trace_rmem_page_convert(gpa, run.count, run.state, to);
    while (run.count) {
        uint32_t pages = MIN(run.count, UINT32_MAX);
        RmemRecord rec = {
            .kind = change_kind(event), .gpa = gpa, .pages = pages,
            .actor = walk->change->actor, .device = RMEM_NO_DEVICE,
            .pc = walk->change->pc, .flags = walk->change->flags,
            .from = run.state, .to = to,
        };

        restricted_record(walk->rm, &rec);
        gpa += (uint64_t)pages << RMEM_PAGE_BITS;
        run.count -= pages;
    }
}

static void run_changed(void *opaque, RmemRun run, RmemState to)
{
    ChangeWalk *walk = opaque;
    RestrictedMemory *rm = walk->rm;
    RestrictedChange *change = walk->change;

    run_content(rm, change, run, to);
    if (run.state != to) {
        change->changed += run.count;
        restricted_states_changed(rm, &(RestrictedPages){ run.first, run.count });
    }
    if (run.state != to || change->event == RMEM_DISCARD) {
        run_record(walk, change->event, run, to);
    }
    if (change->preserve && run.state == RMEM_SHARED && to == RMEM_PENDING) {
        /* The content was kept, so the guest has nothing to accept. */
        rmem_apply(&rm->core, run.first, run.count, RMEM_ACCEPT, NULL, NULL,
                   NULL);
        restricted_states_changed(rm, &(RestrictedPages){ run.first, run.count });
        run.state = RMEM_PENDING;
        run_record(walk, RMEM_ACCEPT, run, RMEM_PRIVATE);
    }
}

/* The file in which this change gives a run storage, -1 if in none. */
static int run_gets_storage(RestrictedMemory *rm, const RestrictedChange *change,
                            const RmemRun *run)
{
    bool split = restricted_is_split(rm);

    switch (change->event) {
    case RMEM_TO_SHARED:
        return split && run->state != RMEM_SHARED ? RESTRICTED_FD_SHARED : -1;
    case RMEM_ACCEPT:
        return run->state == RMEM_PENDING ? RESTRICTED_FD_PRIVATE : -1;
    case RMEM_TO_PRIVATE:
        return split && change->preserve && run->state == RMEM_SHARED
               ? RESTRICTED_FD_PRIVATE : -1;
    default:
        return -1;
    }
}

/* Allocate (to undo: punch) what the change needs; returns the runs left. */
static size_t change_storage(RestrictedMemory *rm, const RestrictedChange *change,
                             size_t runs, bool undo)
{
    for (size_t i = 0; i < change->n; i++) {
        uint64_t first = change->ranges[i].first;
        uint64_t end = first + change->ranges[i].count;

        while (first < end && runs) {
            RmemRun run = rmem_run_at(&rm->core, first, end - first);
            int which = run_gets_storage(rm, change, &run);

            if (which >= 0 && undo) {
                file_punch(rm, which, run.first, run.count);
            } else if (which >= 0
                       && !restricted_allocate(rm, which, &(RestrictedPages){
                                                   run.first, run.count })) {
                return runs;
            }
            first += run.count;
            runs--;
        }
    }
    return 0;
}

/*
 * Storage comes before states, because a shared page has storage, and so has an
 * accepted one. Only a full host can refuse, and then nothing has changed yet.
 */
static bool change_allocate(RestrictedMemory *rm, const RestrictedChange *change,
                            Error **errp)
{
    size_t left = change_storage(rm, change, SIZE_MAX, false);

    if (left) {
        error_setg_errno(errp, errno, "the host has no storage for the pages");
        /* The run that failed may have got some storage. */
        change_storage(rm, change, SIZE_MAX - left + 1, true);
        return false;
    }
    return true;
}

static bool change_check(RestrictedMemory *rm, RestrictedChange *change,
                         Error **errp)
{
    for (size_t i = 0; i < change->n; i++) {
        change->refusal = rmem_check(&rm->core, change->ranges[i].first,
                                     change->ranges[i].count, change->event,
                                     &change->bad);
        if (change->refusal != RMEM_OK) {
            uint64_t gpa = restricted_page_to_gpa(rm, change->bad);

            error_setg(errp, "%s refused at gpa 0x%" PRIx64 ": %s",
                       rmem_event_name(change->event), gpa,
                       rmem_refusal_name(change->refusal));
            return false;
        }
    }
    return true;
}

#ifdef RESTRICTED_PLANT_BUG
/*
 * Bugs for tests that attacks find them, only in their build: one conversion in
 * some thousands reads past the end of an allocation, more of them leak one.
 */
static bool planted(const RestrictedPages *pages)
{
    uint64_t *copy = g_memdup2(pages, sizeof(*pages));
    bool rare = (copy[0] & 0x3f) == 0x25 && copy[1] == 7;
    bool read = copy[rare ? 2 : 1] != 0;

    if (copy[1] != 5) {
        g_free(copy);
    }
    return read;
}
#endif

bool restricted_change(RestrictedMemory *rm, RestrictedChange *change,
                       Error **errp)
{
    ChangeWalk walk = { .rm = rm, .change = change };

#ifdef RESTRICTED_PLANT_BUG
    change->bad = change->n && planted(change->ranges);
#endif
    RESTRICTED_LOCK_GUARD(&rm->lock);
    if (!change_check(rm, change, errp)
        || !change_allocate(rm, change, errp)) {
        return false;
    }
    for (size_t i = 0; i < change->n; i++) {
        rmem_apply(&rm->core, change->ranges[i].first,
                   change->ranges[i].count, change->event, run_changed, &walk,
                   NULL);
    }
    if (change->event == RMEM_TO_SHARED || change->event == RMEM_TO_PRIVATE) {
        rmem_count(&rm->core, RMEM_C_CONVERSIONS, 1);
    }
    if (change->n == 1) {
        restricted_flush_pages(rm, change->ranges);
    } else {
        restricted_flush();
    }
    return true;
}

bool restricted_share_page(RestrictedMemory *rm, uint64_t page,
                           RmemState *old)
{
    bool split = restricted_is_split(rm);
    const RestrictedPages pages = { page, 1 };

    RESTRICTED_LOCK_GUARD(&rm->lock);
    if (rmem_check(&rm->core, page, 1, RMEM_TO_SHARED, NULL) != RMEM_OK
        || (split && rmem_state(&rm->core, page) != RMEM_SHARED
            && !restricted_allocate(rm, RESTRICTED_FD_SHARED, &pages))
        || rmem_apply_page(&rm->core, page, RMEM_TO_SHARED, old) != RMEM_OK) {
        return false;
    }
    if (*old != RMEM_SHARED) {
        restricted_states_changed(rm, &pages);
    }
    if (split && *old != RMEM_SHARED) {
        file_punch(rm, RESTRICTED_FD_PRIVATE, page, 1);
        restricted_flush_later();
    }
    return true;
}
