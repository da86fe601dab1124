/*
 * What is in memory before the guest's own code runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "hw/boards.h"
#include "hw/restricted-memory/restricted.h"

static void (*machine_reset)(MachineState *machine, ResetType type);

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

uint8_t *restricted_ram(RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                        RmemState state)
{
    hwaddr start = gpa & ~(RMEM_PAGE_SIZE - 1);
    MemoryRegion *ram = state == RMEM_SHARED ? restricted_shared_ram(rm)
                                             : &rm->private_ram;
    RestrictedPages pages;
    RmemRun run;

    if (!restricted_pages(rm, start, ROUND_UP(gpa - start + size,
                                              RMEM_PAGE_SIZE), &pages)) {
        return NULL;
    }
    run = rmem_run_at(&rm->core, pages.first, pages.count);
    if (run.state != state || run.count != pages.count) {
        return NULL;
    }
    for (uint64_t i = 0; i < pages.count; i++) {
        restricted_settle(rm, pages.first + i);
    }
    return (uint8_t *)memory_region_get_ram_ptr(ram)
           + (pages.first << RMEM_PAGE_BITS) + (gpa - start);
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

void restricted_seal(RestrictedMemory *rm)
{
    qatomic_set(&rm->sealed, true);
}

void restricted_load(RestrictedMemory *rm, const RestrictedPages *pages)
{
    RmemRecord rec = {
        .kind = RMEM_K_LOAD, .pages = pages->count,
        .gpa = restricted_offset_to_gpa(rm, pages->first << RMEM_PAGE_BITS),
        .actor = RMEM_A_LOADER, .device = RMEM_NO_DEVICE,
        .from = RMEM_PENDING, .to = RMEM_PRIVATE,
    };

    WITH_QEMU_LOCK_GUARD(&rm->lock) {
        rmem_apply(&rm->core, pages->first, pages->count, RMEM_LOAD, NULL,
                   NULL, NULL);
    }
    if (RETRY_ON_EINTR(fallocate(rm->fds[RESTRICTED_FD_PRIVATE], 0,
                                 pages->first << RMEM_PAGE_BITS,
                                 pages->count << RMEM_PAGE_BITS)) < 0) {
        error_report("the host has no storage for the launch image");
        exit(EXIT_FAILURE);
    }
    restricted_record(rm, &rec);
}

static void launch_machine_reset(MachineState *machine, ResetType type)
{
    RestrictedMemory *rm = restricted_memory();

    machine_reset(machine, type);
    if (!restricted_incoming()) {
        rm->profile->launch(rm);
    }
}

/*
 * A launch sets CPU registers and so comes after all else that a reset does,
 * for which QEMU has no hook but the machine's own.
 */
void restricted_launch_machine_done(RestrictedMemory *rm)
{
    MachineClass *mc = MACHINE_GET_CLASS(current_machine);

    if (rm->profile->launch) {
        machine_reset = mc->reset;
        mc->reset = launch_machine_reset;
    }
}
