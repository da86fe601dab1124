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
#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/dirty.h"

#define SPAN_PAGES 4096     /* asked for together */

void restricted_dirty_log(RestrictedMemory *rm, bool on)
{
    qatomic_set(&rm->logs_dirty, on);
    memory_region_set_log(&rm->private_ram, on, DIRTY_MEMORY_VGA);
    if (restricted_is_split(rm)) {
        memory_region_set_log(&rm->shared_ram, on, DIRTY_MEMORY_VGA);
    }
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

void restricted_dirty_take(RestrictedMemory *rm, MemoryRegion *ram,
                           uint64_t *bitmap)
{
    uint64_t pages = rm->core.pages;
    g_autofree DirtyBitmapSnapshot *log =
        memory_region_snapshot_and_clear_dirty(ram, 0,
                                               pages << RMEM_PAGE_BITS,
                                               DIRTY_MEMORY_VGA);

    for (uint64_t first = 0, end; first < pages; first = end) {
        end = MIN(pages, first + SPAN_PAGES);
        if (memory_region_snapshot_get_dirty(ram, log, first << RMEM_PAGE_BITS,
                                             (end - first) << RMEM_PAGE_BITS)) {
            take_span(ram, log, first, end, bitmap);
        }
    }
}

void restricted_do_mark_dirty(MemoryRegion *ram, const RestrictedPages *pages)
{
    memory_region_set_dirty(ram, pages->first << RMEM_PAGE_BITS,
                            pages->count << RMEM_PAGE_BITS);
}
