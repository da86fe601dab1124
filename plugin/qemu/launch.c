/*
 * The launch: what is in memory before the guest's own code runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "system/reset.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/storage.h"

static void (*machine_reset)(MachineState *machine, ResetType type);

void restricted_seal(RestrictedMemory *rm)
{
    qatomic_set(&rm->sealed, true);
}

void restricted_load(RestrictedMemory *rm, const RestrictedPages *pages)
{
    RmemRecord rec = {
        .kind = RMEM_K_LOAD, .pages = pages->count,
        .gpa = restricted_page_to_gpa(rm, pages->first),
        .actor = RMEM_A_LOADER, .device = RMEM_NO_DEVICE,
        .from = RMEM_PENDING, .to = RMEM_PRIVATE,
    };

    WITH_RESTRICTED_LOCK(&rm->lock) {
        rmem_apply(&rm->core, pages->first, pages->count, RMEM_LOAD, NULL,
                   NULL, NULL);
        restricted_states_changed(rm, pages);
    }
    if (!restricted_allocate(rm, RESTRICTED_FD_PRIVATE, pages)) {
        error_report("the host has no storage for the launch image");
        exit(EXIT_FAILURE);
    }
    restricted_record(rm, &rec);
}

static void launch_machine_reset(MachineState *machine, ResetType type)
{
    RestrictedMemory *rm = restricted_memory();

    if (machine_reset) {
        machine_reset(machine, type);
    } else {
        qemu_devices_reset(type);       /* as qemu_system_reset() does */
    }
    if (!restricted_incoming()) {
        rm->profile->launch(rm);
    }
}

/*
 * A launch sets CPU registers, so it comes after everything else that a reset
 * does. QEMU has no hook for that but the machine's own reset.
 */
void restricted_launch_machine_done(RestrictedMemory *rm)
{
    MachineClass *mc = MACHINE_GET_CLASS(current_machine);

    if (rm->profile->launch) {
        machine_reset = mc->reset;
        mc->reset = launch_machine_reset;
    }
}
