/*
 * Which pages of the memory files were written since somebody asked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU keeps several dirty logs. That of migration leaves out blocks that are
 * not migratable, as ours are. That of displays is for any region, and no
 * display is made of guest RAM.
 */

#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/recording.h"

#define SPAN_PAGES 4096     /* asked for together */
#define FILES_MAX 2

/* What each reader has not taken yet; NULL: it does not read. BQL. */
static uint64_t *written[RESTRICTED_DIRTY_READERS][FILES_MAX];

bool restricted_dirty_is_on(RestrictedDirtyFor reader)
{
    return written[reader][0];
}

static bool any_is_on(void)
{
    for (int i = 0; i < RESTRICTED_DIRTY_READERS; i++) {
        if (restricted_dirty_is_on(i)) {
            return true;
        }
    }
    return false;
}

static void take_span(MemoryRegion *ram, DirtyBitmapSnapshot *log,
                      uint64_t first, uint64_t end, uint64_t *bitmap)
{
    for (uint64_t page = first; page < end; page++) {
        if (memory_region_snapshot_get_dirty(ram, log, page << RMEM_PAGE_BITS,
                                             RMEM_PAGE_SIZE)) {
            rmem_bit_set(bitmap, page);
        }
    }
}

/* Take QEMU's log of a file, for all who read. */
static void collect(RestrictedMemory *rm, int which)
{
    MemoryRegion *ram = restricted_file_ram(rm, which);
    uint64_t pages = rm->core.pages, words = RMEM_BITMAP_WORDS(pages);
    g_autofree uint64_t *found = g_new0(uint64_t, words);
    g_autofree DirtyBitmapSnapshot *log =
        memory_region_snapshot_and_clear_dirty(ram, 0,
                                               pages << RMEM_PAGE_BITS,
                                               DIRTY_MEMORY_VGA);

    for (uint64_t first = 0, end; first < pages; first = end) {
        end = MIN(pages, first + SPAN_PAGES);
        if (memory_region_snapshot_get_dirty(ram, log, first << RMEM_PAGE_BITS,
                                             (end - first) << RMEM_PAGE_BITS)) {
            take_span(ram, log, first, end, found);
        }
    }
    for (int i = 0; i < RESTRICTED_DIRTY_READERS; i++) {
        for (uint64_t w = 0; written[i][which] && w < words; w++) {
            written[i][which][w] |= found[w];
        }
    }
}

static void set_log(RestrictedMemory *rm, bool on)
{
    qatomic_set(&rm->logs_dirty, on);
    for (int i = 0; i < restricted_files(rm); i++) {
        memory_region_set_log(restricted_file_ram(rm, i), on,
                              DIRTY_MEMORY_VGA);
    }
}

void restricted_dirty_log(RestrictedMemory *rm, RestrictedDirtyFor reader,
                          bool on)
{
    for (int i = 0; i < FILES_MAX; i++) {
        g_clear_pointer(&written[reader][i], g_free);
    }
    if (!on) {
        if (!any_is_on()) {
            set_log(rm, false);
        }
        return;
    }
    if (!any_is_on()) {
        set_log(rm, true);
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        collect(rm, i);     /* what was before is for the others */
        written[reader][i] = g_new0(uint64_t,
                                    RMEM_BITMAP_WORDS(rm->core.pages));
    }
    /* A store that has looked at its TLB entry before the log began is done. */
    restricted_finish_cpu_work();
}

uint64_t *restricted_dirty_take(RestrictedMemory *rm,
                                RestrictedDirtyFor reader, int which)
{
    uint64_t *taken;

    collect(rm, which);
    taken = written[reader][which];
    written[reader][which] = g_new0(uint64_t,
                                    RMEM_BITMAP_WORDS(rm->core.pages));
    return taken;
}

void restricted_do_mark_dirty(MemoryRegion *ram, const RestrictedPages *pages)
{
    memory_region_set_dirty(ram, pages->first << RMEM_PAGE_BITS,
                            pages->count << RMEM_PAGE_BITS);
}
