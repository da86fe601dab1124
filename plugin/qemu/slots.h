/*
 * Where guest RAM is, as addresses, offsets and pages.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_SLOTS_H
#define HW_RESTRICTED_MEMORY_QEMU_SLOTS_H

#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/core/rmem.h"

typedef struct RestrictedMemory RestrictedMemory;

/* A piece of guest RAM: guest physical address, and offset in the backend. */
typedef struct RestrictedSlot {
    hwaddr gpa;
    uint64_t offset;
    uint64_t size;
} RestrictedSlot;

/* Pages of the backend; a page is named by its offset >> RMEM_PAGE_BITS. */
typedef struct RestrictedPages {
    uint64_t first;
    uint64_t count;
} RestrictedPages;

/* Pages in a 2 MiB page of the guest. */
#define RESTRICTED_PAGES_2M 512

/* No page: the address is not RAM of the backend. */
#define RESTRICTED_NO_PAGE UINT64_MAX

/* Look where the machine has put the backend. */
void restricted_slots_find(RestrictedMemory *rm);
/* Map @target, a region of the backend's size, in @root at @base + gpa. */
void restricted_map_slots(RestrictedMemory *rm, MemoryRegion *root,
                          MemoryRegion *target, hwaddr base, const char *name);

/* The slot that holds @gpa, NULL if it is not RAM of the backend. */
const RestrictedSlot *restricted_slot(const RestrictedMemory *rm, hwaddr gpa);
uint64_t restricted_offset_to_gpa(const RestrictedMemory *rm, uint64_t offset);
static inline uint64_t restricted_page_to_gpa(const RestrictedMemory *rm,
                                              uint64_t page)
{
    return restricted_offset_to_gpa(rm, page << RMEM_PAGE_BITS);
}

/* The page that holds @gpa, or RESTRICTED_NO_PAGE. */
uint64_t restricted_page_at(const RestrictedMemory *rm, hwaddr gpa);
/* Pages of [gpa, gpa + size); false if they are not all RAM of one slot. */
bool restricted_pages(const RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                      RestrictedPages *pages);
/* The part of [gpa, gpa + size) that is in @slot; false if nothing is. */
bool restricted_slot_part(const RestrictedSlot *slot, hwaddr gpa,
                          uint64_t size, RestrictedPages *pages);

#endif
