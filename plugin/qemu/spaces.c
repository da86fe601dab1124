/*
 * The address spaces that give each device a name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A device on a bus (pci.c) and fw_cfg get an address space and a guard of
 * their own. Any other access (ISA DMA, a monitor command) meets the guard in
 * system memory, and is named "host", "monitor" or "gdb".
 */

#include "qemu/osdep.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/pci.h"
#include "hw/restricted-memory/qemu/spaces.h"

static void space_map(RestrictedMemory *rm, RestrictedSpace *space)
{
    MemoryRegion *guard = MEMORY_REGION(&space->guard.iommu);

    restricted_map_slots(rm, &space->root, guard, 0, "restricted-guarded");
    if (rm->profile->device_bit) {
        restricted_map_slots(rm, &space->root, guard,
                             rm->profile->device_bit(rm),
                             "restricted-guarded-alias");
    }
}

static bool stray_access(RestrictedSpace *space, hwaddr addr, bool write)
{
    RestrictedAccess access = {
        .rm = space->guard.rm, .actor = &space->actor,
        .offset = space->stray.addr + addr, .write = write,
    };

    return restricted_judge_stray(&access);
}

static MemTxResult stray_read(void *opaque, hwaddr addr, uint64_t *data,
                              unsigned size, MemTxAttrs attrs)
{
    *data = 0;
    return stray_access(opaque, addr, false) ? MEMTX_OK : MEMTX_ERROR;
}

static MemTxResult stray_write(void *opaque, hwaddr addr, uint64_t data,
                               unsigned size, MemTxAttrs attrs)
{
    return stray_access(opaque, addr, true) ? MEMTX_OK : MEMTX_ERROR;
}

static const MemoryRegionOps stray_ops = {
    .read_with_attrs = stray_read,
    .write_with_attrs = stray_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

static void space_find_strays(RestrictedMemory *rm, RestrictedSpace *space)
{
    uint64_t bit = rm->profile->view_bit(rm);

    memory_region_init_io(&space->stray, OBJECT(rm), &stray_ops, space,
                          "restricted-stray", bit);
    memory_region_add_subregion_overlap(&space->root, bit, &space->stray, 2);
}

void restricted_spaces_find_strays(RestrictedMemory *rm)
{
    if (!rm->profile->view_bit) {
        return;
    }
    rm->finds_strays = true;
    for (unsigned i = 0; i < rm->spaces->len; i++) {
        space_find_strays(rm, g_ptr_array_index(rm->spaces, i));
    }
}

RestrictedSpace *restricted_space_new(RestrictedMemory *rm, const char *name)
{
    RestrictedSpace *space = g_new0(RestrictedSpace, 1);

    restricted_actor_add(rm, &space->actor, RMEM_A_DEVICE, name);
    restricted_guard_setup(rm, &space->guard, &space->actor,
                           "restricted-guard-device");
    memory_region_init(&space->root, OBJECT(rm), "restricted-device",
                       UINT64_MAX);
    memory_region_init_alias(&space->system, OBJECT(rm), "restricted-system",
                             get_system_memory(), 0, UINT64_MAX);
    memory_region_add_subregion_overlap(&space->root, 0, &space->system, 0);
    if (rm->nslots) {
        space_map(rm, space);
    }
    if (rm->finds_strays) {
        space_find_strays(rm, space);
    }
    address_space_init(&space->as, &space->root, "restricted-device");
    g_ptr_array_add(rm->spaces, space);
    return space;
}

/*
 * Devices without a space of their own, and doorbells that a device writes to.
 * The alias is not in what it shows of system memory.
 */
static void map_device_alias(RestrictedMemory *rm)
{
    uint64_t bit = rm->profile->device_bit(rm);
    MemoryRegion *alias = g_new0(MemoryRegion, 1);

    memory_region_init_alias(alias, OBJECT(rm), "restricted-device-alias",
                             get_system_memory(), 0, bit);
    memory_region_add_subregion_overlap(get_system_memory(), bit, alias, 0);
}

void restricted_spaces_machine_done(RestrictedMemory *rm)
{
    FWCfgState *fw_cfg = fw_cfg_find();
    RestrictedSpace *space;

    restricted_slots_find(rm);
    memory_region_transaction_begin();
    if (rm->profile->device_bit) {
        map_device_alias(rm);
    }
    for (unsigned i = 0; i < rm->spaces->len; i++) {
        space_map(rm, g_ptr_array_index(rm->spaces, i));
    }
    memory_region_transaction_commit();
    if (fw_cfg && fw_cfg->dma_as) {
        space = restricted_space_new(rm, "fw_cfg");
        rm->fw_cfg = &space->actor;
        fw_cfg->dma_as = &space->as;
    }
}

void restricted_spaces_init(RestrictedMemory *rm)
{
    rm->spaces = g_ptr_array_new();
    restricted_actors_init(rm);
    restricted_pci_init();
}
