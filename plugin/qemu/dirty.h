/*
 * Which pages of the memory files were written since somebody asked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's own dirty log finds what CPUs and devices write. What the plugin
 * writes itself, and what it does to storage, it reports here.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_DIRTY_H
#define HW_RESTRICTED_MEMORY_QEMU_DIRTY_H

#include "hw/restricted-memory/qemu/backend.h"

/* Once for each of the files. BQL. */
void restricted_dirty_log(RestrictedMemory *rm, bool on);

/* Set the bits of the pages of @ram that were written, and start anew. */
void restricted_dirty_take(RestrictedMemory *rm, MemoryRegion *ram,
                           uint64_t *bitmap);

void restricted_do_mark_dirty(MemoryRegion *ram, const RestrictedPages *pages);

/* The plugin writes to these pages, or changes their storage. Any thread. */
static inline void restricted_mark_dirty(RestrictedMemory *rm,
                                         MemoryRegion *ram,
                                         const RestrictedPages *pages)
{
    if (qatomic_read(&rm->logs_dirty)) {
        restricted_do_mark_dirty(ram, pages);
    }
}

#endif
