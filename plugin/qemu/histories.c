/*
 * The histories of the memory files: their content at each checkpoint.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The first point copies the files; all that comes after it costs the pages
 * that were written meanwhile. No vCPU and no device runs.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/histories.h"
#include "hw/restricted-memory/qemu/storage.h"
#include "hw/restricted-memory/qemu/tlb.h"

#define FILES 2             /* the private one, and in the split layout the other */

static RmemHistory *histories[FILES];

static uint64_t *take_dirty(RestrictedMemory *rm, int which)
{
    return restricted_dirty_take(rm, RESTRICTED_DIRTY_FOR_HISTORY, which);
}

static bool begin(RestrictedMemory *rm)
{
    if (histories[0]) {
        return true;
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        histories[i] = rmem_history_new(rm->fds[i],
                                        memory_region_get_ram_ptr(restricted_file_ram(rm, i)),
                                        rm->core.pages);
        if (!histories[i]) {
            return false;
        }
    }
    restricted_dirty_log(rm, RESTRICTED_DIRTY_FOR_HISTORY, true);
    return true;
}

void restricted_histories_end(RestrictedMemory *rm)
{
    if (!histories[0]) {
        return;
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        g_clear_pointer(&histories[i], rmem_history_free);
    }
    restricted_dirty_log(rm, RESTRICTED_DIRTY_FOR_HISTORY, false);
}

/* All files get the point, or none. */
bool restricted_histories_add(RestrictedMemory *rm)
{
    if (!begin(rm)) {
        return false;
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        g_autofree uint64_t *dirty = take_dirty(rm, i);

        if (!rmem_history_add(histories[i], dirty)) {
            while (i--) {
                rmem_history_drop(histories[i],
                                  rmem_history_points(histories[i]) - 1);
            }
            return false;
        }
    }
    return true;
}

static void restored(void *opaque, uint64_t first, uint64_t count)
{
    restricted_forget_code(opaque, &(RestrictedPages){ first, count });
}

/* The pages that went back, of all files. */
typedef struct Taken {
    uint64_t *dirty[FILES];
    uint64_t pages;
} Taken;

static bool take_files_back(RestrictedMemory *rm, unsigned point, Taken *taken,
                            Error **errp)
{
    for (int i = 0; i < restricted_files(rm); i++) {
        taken->dirty[i] = take_dirty(rm, i);
        if (!rmem_history_back(histories[i], point, taken->dirty[i], restored,
                               restricted_file_ram(rm, i))) {
            error_setg_errno(errp, errno, "the host has no storage for the "
                             "pages");
            return false;
        }
        for (uint64_t w = 0; w < RMEM_BITMAP_WORDS(rm->core.pages); w++) {
            taken->pages += ctpop64(taken->dirty[i][w]);
        }
    }
    return true;
}

/*
 * A page may have storage that nobody has written to; its history has a hole
 * there. The table says where storage belongs.
 */
static bool give_storage(RestrictedMemory *rm, const Taken *taken, Error **errp)
{
    for (int i = 0; i < restricted_files(rm); i++) {
        RmemState state = i == RESTRICTED_FD_PRIVATE ? RMEM_PRIVATE
                                                     : RMEM_SHARED;
        RestrictedPages run = { 0, 0 };

        for (uint64_t page = 0; page <= rm->core.pages; page++) {
            if (page % 64 == 0 && !run.count && page < rm->core.pages
                && !taken->dirty[i][page / 64]) {
                page += 63;
                continue;
            }
            if (page < rm->core.pages && rmem_bit(taken->dirty[i], page)
                && rmem_state(&rm->core, page) == state) {
                run.first = run.count++ ? run.first : page;
            } else if (run.count) {
                if (!restricted_allocate(rm, i, &run)) {
                    error_setg_errno(errp, errno, "the host has no storage for "
                                     "the pages");
                    return false;
                }
                run.count = 0;
            }
        }
    }
    return true;
}

static bool go_back(RestrictedMemory *rm, unsigned point,
                    const RmemSaved *saved, Taken *taken, Error **errp)
{
    bool gave;

    if (!take_files_back(rm, point, taken, errp)) {
        return false;
    }
    WITH_RESTRICTED_LOCK(&rm->lock) {
        rmem_restore(&rm->core, saved);
    }
    /* It gives back what was there: nothing differs from the histories. */
    qatomic_set(&rm->logs_dirty, false);
    gave = give_storage(rm, taken, errp);
    qatomic_set(&rm->logs_dirty, true);
    return gave;
}

bool restricted_histories_back(RestrictedMemory *rm, unsigned point,
                               const RmemSaved *saved, uint64_t *pages,
                               Error **errp)
{
    Taken taken = { 0 };
    bool went = go_back(rm, point, saved, &taken, errp);

    for (int i = 0; i < FILES; i++) {
        g_free(taken.dirty[i]);
    }
    *pages = taken.pages;
    return went;
}

bool restricted_histories_drop(RestrictedMemory *rm, unsigned point)
{
    for (int i = 0; i < restricted_files(rm); i++) {
        if (!rmem_history_prepare_drop(histories[i], point)) {
            return false;
        }
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        rmem_history_drop(histories[i], point);
    }
    return true;
}
