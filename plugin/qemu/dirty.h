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

/* Who wants to know; each learns what was written since it asked last. */
typedef enum RestrictedDirtyFor {
    RESTRICTED_DIRTY_FOR_HISTORY,       /* checkpoints: histories.c */
    RESTRICTED_DIRTY_FOR_COPY,          /* a snapshot while the guest runs */
    RESTRICTED_DIRTY_READERS
} RestrictedDirtyFor;

/* Begin anew, or end. vCPUs may run: what they write from now on is found. BQL. */
void restricted_dirty_log(RestrictedMemory *rm, RestrictedDirtyFor reader,
                          bool on);
bool restricted_dirty_is_on(RestrictedDirtyFor reader);

/*
 * A bitmap of the pages of file @which (0: private, 1: shared) that were written
 * since; the caller frees it. The log is on. BQL.
 */
uint64_t *restricted_dirty_take(RestrictedMemory *rm,
                                RestrictedDirtyFor reader, int which);

/* How many memory files there are: a split layout has two. */
static inline int restricted_files(const RestrictedMemory *rm)
{
    return restricted_is_split(rm) ? 2 : 1;
}

static inline MemoryRegion *restricted_file_ram(RestrictedMemory *rm, int which)
{
    return which == 0 ? &rm->private_ram : &rm->shared_ram;
}

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
