/*
 * Where guest RAM is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/slots.h"

const RestrictedSlot *restricted_slot(const RestrictedMemory *rm, hwaddr gpa)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];

        if (gpa - slot->gpa < slot->size) {
            return slot;
        }
    }
    return NULL;
}

uint64_t restricted_offset_to_gpa(const RestrictedMemory *rm, uint64_t offset)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];

        if (offset - slot->offset < slot->size) {
            return slot->gpa + (offset - slot->offset);
        }
    }
    /* RAM without a slot (RestrictedArch.find_hole) is at its offset. */
    return offset;
}

uint64_t restricted_page_at(const RestrictedMemory *rm, hwaddr gpa)
{
    const RestrictedSlot *slot = restricted_slot(rm, gpa);

    return slot ? (gpa - slot->gpa + slot->offset) >> RMEM_PAGE_BITS
                : RESTRICTED_NO_PAGE;
}

bool restricted_pages(const RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                      RestrictedPages *pages)
{
    const RestrictedSlot *slot = restricted_slot(rm, gpa);

    if (!slot || size > slot->size - (gpa - slot->gpa)) {
        return false;
    }
    pages->first = (gpa - slot->gpa + slot->offset) >> RMEM_PAGE_BITS;
    pages->count = size >> RMEM_PAGE_BITS;
    return true;
}

bool restricted_slot_part(const RestrictedSlot *slot, hwaddr gpa,
                          uint64_t size, RestrictedPages *pages)
{
    hwaddr start = MAX(gpa, slot->gpa);
    hwaddr end = MIN(gpa + size, slot->gpa + slot->size);

    if (start >= end) {
        return false;
    }
    pages->first = (start - slot->gpa + slot->offset) >> RMEM_PAGE_BITS;
    pages->count = (end - start) >> RMEM_PAGE_BITS;
    return true;
}

void restricted_map_slots(RestrictedMemory *rm, MemoryRegion *root,
                          MemoryRegion *target, hwaddr base, const char *name)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];
        MemoryRegion *alias = g_new0(MemoryRegion, 1);

        memory_region_init_alias(alias, OBJECT(rm), name, target,
                                 slot->offset, slot->size);
        memory_region_add_subregion_overlap(root, base + slot->gpa, alias, 1);
    }
}

typedef struct SlotScan {
    RestrictedMemory *rm;
    GArray *slots;
    hwaddr hole_start, hole_end;    /* RAM without a fixed place has no slot */
} SlotScan;

static void scan_add(SlotScan *scan, hwaddr start, hwaddr end, hwaddr region)
{
    RestrictedSlot slot = {
        .gpa = start, .offset = start - region, .size = end - start,
    };

    if (start < end) {
        g_array_append_val(scan->slots, slot);
    }
}

static bool scan_slot(Int128 start, Int128 len, const MemoryRegion *mr,
                      hwaddr offset, void *opaque)
{
    SlotScan *scan = opaque;
    hwaddr at = int128_get64(start), end = at + int128_get64(len);

    if (mr == MEMORY_REGION(&scan->rm->guard.iommu)) {
        hwaddr region = at - offset;

        scan_add(scan, at, MIN(end, scan->hole_start), region);
        scan_add(scan, MAX(at, scan->hole_end), end, region);
    }
    return false;
}

/* Look where the machine has put the backend: that works for all machines. */
void restricted_slots_find(RestrictedMemory *rm)
{
    SlotScan scan = {
        .rm = rm, .slots = g_array_new(false, false, sizeof(RestrictedSlot)),
    };

    rm->arch->find_hole(&scan.hole_start, &scan.hole_end);
    RCU_READ_LOCK_GUARD();
    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            scan_slot, &scan);
    rm->nslots = scan.slots->len;
    rm->slots = (RestrictedSlot *)g_array_free(scan.slots, false);
}
