/*
 * Changing page states, and the content that goes with them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All of it happens while no guest CPU runs: in the main thread with the
 * vCPUs paused, or in one vCPU's exclusive section.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "exec/tb-flush.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "hw/core/cpu.h"
#include "qemu/lockable.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

static bool file_allocate(RestrictedMemory *rm, int which, uint64_t first,
                          uint64_t count)
{
    /* A signal, even SIGSTOP, interrupts it, and then it has done nothing. */
    return RETRY_ON_EINTR(fallocate(rm->fds[which], 0, first << RMEM_PAGE_BITS,
                                    count << RMEM_PAGE_BITS)) == 0;
}

/* Code translated from these pages is gone with their content. */
static void forget_code(MemoryRegion *ram, uint64_t first, uint64_t count)
{
    ram_addr_t start = memory_region_get_ram_addr(ram)
                       + (first << RMEM_PAGE_BITS);

    tb_invalidate_phys_range(start, start + (count << RMEM_PAGE_BITS) - 1);
}

static void file_punch(RestrictedMemory *rm, int which, uint64_t first,
                       uint64_t count)
{
    MemoryRegion *ram = which == RESTRICTED_FD_SHARED ? &rm->shared_ram
                                                      : &rm->private_ram;

    /* Punching a range of our own memfd has no way to fail. */
    if (RETRY_ON_EINTR(fallocate(rm->fds[which],
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 first << RMEM_PAGE_BITS,
                                 count << RMEM_PAGE_BITS)) < 0) {
        abort();
    }
    forget_code(ram, first, count);
}

static void file_copy(RestrictedMemory *rm, MemoryRegion *to,
                      MemoryRegion *from, uint64_t first, uint64_t count)
{
    uint8_t *dst = memory_region_get_ram_ptr(to);
    const uint8_t *src = memory_region_get_ram_ptr(from);

    memcpy(dst + (first << RMEM_PAGE_BITS), src + (first << RMEM_PAGE_BITS),
           count << RMEM_PAGE_BITS);
    forget_code(to, first, count);
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
            /* Just punched, so there is room. */
            file_allocate(rm, RESTRICTED_FD_SHARED, run.first, run.count);
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
    uint64_t gpa = restricted_offset_to_gpa(walk->rm,
                                            run.first << RMEM_PAGE_BITS);

    trace_rmem_page_convert(gpa, run.count, run.state, to);
    while (run.count) {
        uint32_t pages = MIN(run.count, UINT32_MAX);
        RmemRecord rec = {
            .kind = change_kind(event), .gpa = gpa, .pages = pages,
            .actor = walk->change->actor, .device = RMEM_NO_DEVICE,
            .rip = walk->change->rip, .from = run.state, .to = to,
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
    }
    if (run.state != to || change->event == RMEM_DISCARD) {
        run_record(walk, change->event, run, to);
    }
    if (change->preserve && run.state == RMEM_SHARED && to == RMEM_PENDING) {
        /* Content was kept, so there is nothing for the guest to accept. */
        rmem_apply(&rm->core, run.first, run.count, RMEM_ACCEPT, NULL, NULL,
                   NULL);
        run.state = RMEM_PENDING;
        run_record(walk, RMEM_ACCEPT, run, RMEM_PRIVATE);
    }
}

/* The file in which a run gets storage by this change, -1 if in none. */
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

/* Allocate (or, to undo, punch) what the change needs; runs left to do. */
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
                       && !file_allocate(rm, which, run.first, run.count)) {
                return runs;
            }
            first += run.count;
            runs--;
        }
    }
    return 0;
}

/*
 * Storage before states: a shared page has storage, and so has an accepted
 * one. Only a full host can refuse, and then nothing has changed yet.
 */
static bool change_allocate(RestrictedMemory *rm, const RestrictedChange *change,
                            Error **errp)
{
    size_t left = change_storage(rm, change, SIZE_MAX, false);

    if (left) {
        error_setg_errno(errp, errno, "the host has no storage for the pages");
        /* The run that failed may have got a part. */
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
            uint64_t gpa = restricted_offset_to_gpa(rm, change->bad
                                                    << RMEM_PAGE_BITS);

            error_setg(errp, "%s refused at gpa 0x%" PRIx64 ": %s",
                       rmem_event_name(change->event), gpa,
                       rmem_refusal_name(change->refusal));
            return false;
        }
    }
    return true;
}

bool restricted_change(RestrictedMemory *rm, RestrictedChange *change,
                       Error **errp)
{
    ChangeWalk walk = { .rm = rm, .change = change };

    QEMU_LOCK_GUARD(&rm->lock);
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

    QEMU_LOCK_GUARD(&rm->lock);
    if (split && rmem_state(&rm->core, page) != RMEM_SHARED
        && !file_allocate(rm, RESTRICTED_FD_SHARED, page, 1)) {
        return false;
    }
    if (rmem_apply_page(&rm->core, page, RMEM_TO_SHARED, old) != RMEM_OK) {
        return false;
    }
    if (split && *old != RMEM_SHARED) {
        file_punch(rm, RESTRICTED_FD_PRIVATE, page, 1);
        restricted_flush_later();
    }
    return true;
}

static void reset_files(RestrictedMemory *rm)
{
    int last = restricted_is_split(rm) ? RESTRICTED_FD_SHARED
                                       : RESTRICTED_FD_PRIVATE;

    for (unsigned i = 0; i < rm->nslots; i++) {
        for (int which = RESTRICTED_FD_PRIVATE; which <= last; which++) {
            /* Cheaper than file_punch(): all code is forgotten anyway. */
            if (RETRY_ON_EINTR(fallocate(rm->fds[which],
                                         FALLOC_FL_PUNCH_HOLE
                                         | FALLOC_FL_KEEP_SIZE,
                                         rm->slots[i].offset,
                                         rm->slots[i].size)) < 0) {
                abort();
            }
        }
    }
}

/*
 * RAM without a slot is a PC's shadow RAM. Its content is the firmware that
 * is about to run: as on a PC, it survives.
 */
static void reset_states(RestrictedMemory *rm)
{
    g_autoptr(GArray) kept = g_array_new(false, false, sizeof(uint64_t));

    for (unsigned i = 0; i + 1 < rm->nslots; i++) {
        uint64_t page = (rm->slots[i].offset + rm->slots[i].size)
                        >> RMEM_PAGE_BITS;

        for (; page < rm->slots[i + 1].offset >> RMEM_PAGE_BITS; page++) {
            if (rmem_state(&rm->core, page) == RMEM_PRIVATE) {
                g_array_append_val(kept, page);
            }
        }
    }
    rmem_reset(&rm->core);
    for (unsigned i = 0; i < kept->len; i++) {
        restricted_cpu_touch(rm, g_array_index(kept, uint64_t, i));
    }
}

void restricted_reset(void *opaque)
{
    RestrictedMemory *rm = opaque;
    RmemRecord rec = {
        .kind = RMEM_K_RESET, .actor = RMEM_A_HOST, .device = RMEM_NO_DEVICE,
        .pages = MIN(rm->core.pages, UINT32_MAX),
    };

    if (qatomic_read(&rm->core.shared->phase) == RMEM_PH_LAUNCH
        || restricted_incoming()) {
        return;         /* the machine's first reset: nothing has run here */
    }
    restricted_record(rm, &rec);
    qatomic_set(&rm->sealed, false);
    restricted_stub_reset(rm);
    WITH_QEMU_LOCK_GUARD(&rm->lock) {
        reset_states(rm);
        reset_files(rm);
    }
    restricted_phase(rm, RMEM_PH_LAUNCH);
    if (first_cpu) {
        tb_flush(first_cpu);
    }
    restricted_flush();
}
