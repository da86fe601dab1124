/*
 * Actors, and the address spaces that give them a name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each PCI device gets an address space of its own with a guard of its own.
 * What does not go through a bus (ISA DMA, a monitor command) meets the guard
 * in system memory, under "host", "monitor" or "gdb".
 */

#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/restricted.h"

static char *device_name(const PCIDevice *dev, int devfn)
{
    if (dev && DEVICE(dev)->id) {
        return g_strdup(DEVICE(dev)->id);
    }
    return g_strdup_printf("%s@%02x.%x",
                           dev ? object_get_typename(OBJECT(dev)) : "pci",
                           PCI_SLOT(devfn), PCI_FUNC(devfn));
}

char *restricted_actor_name(const RestrictedActor *actor)
{
    if (actor->name) {
        return g_strdup(actor->name);
    }
    return device_name(pci_find_device(actor->bus, pci_bus_num(actor->bus),
                                       actor->devfn), actor->devfn);
}

RestrictedActor *restricted_actor_running(RestrictedMemory *rm, bool debug)
{
    if (monitor_cur()) {
        return &rm->monitor;
    }
    return debug ? &rm->gdb : &rm->host;
}

void restricted_actor_add(RestrictedMemory *rm, RestrictedActor *actor,
                          RmemActor kind, const char *name)
{
    actor->kind = kind;
    actor->name = name;
    actor->index = rm->actors->len;
    g_ptr_array_add(rm->actors, actor);
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

static void space_map(RestrictedMemory *rm, RestrictedSpace *space)
{
    restricted_map_slots(rm, &space->root, MEMORY_REGION(&space->guard.iommu),
                         0, "restricted-guarded");
}

static RestrictedSpace *space_new(RestrictedMemory *rm, const char *name)
{
    RestrictedSpace *space = g_new0(RestrictedSpace, 1);

    restricted_actor_add(rm, &space->actor, RMEM_A_DEVICE, name);
    restricted_guard_setup(rm, &space->guard, &space->actor, "restricted-guard-device");
    memory_region_init(&space->root, OBJECT(rm), "restricted-device",
                       UINT64_MAX);
    memory_region_init_alias(&space->system, OBJECT(rm), "restricted-system",
                             get_system_memory(), 0, UINT64_MAX);
    memory_region_add_subregion_overlap(&space->root, 0, &space->system, 0);
    if (rm->nslots) {
        space_map(rm, space);
    }
    address_space_init(&space->as, &space->root, "restricted-device");
    g_ptr_array_add(rm->spaces, space);
    return space;
}

static AddressSpace *pci_space(PCIBus *bus, void *opaque, int devfn)
{
    RestrictedMemory *rm = opaque;
    RestrictedSpace *space;

    for (unsigned i = 0; i < rm->spaces->len; i++) {
        space = g_ptr_array_index(rm->spaces, i);
        if (space->actor.bus == bus && space->actor.devfn == devfn) {
            return &space->as;
        }
    }
    space = space_new(rm, NULL);
    space->actor.bus = bus;
    space->actor.devfn = devfn;
    return &space->as;
}

static const PCIIOMMUOps pci_ops = {
    .get_address_space = pci_space,
};

/*
 * A device was realized: put the guard between its bus and memory. Virtio
 * without iommu_platform bypasses the bus, so it is sent through it too.
 */
static void device_realized(DeviceListener *listener, DeviceState *dev)
{
    RestrictedMemory *rm = restricted_memory();
    VirtIODevice *vdev;
    PCIDevice *pci;

    if (object_dynamic_cast(OBJECT(dev), TYPE_PCI_DEVICE)) {
        PCIBus *root = pci_device_root_bus(PCI_DEVICE(dev));

        if (root->iommu_ops != &pci_ops) {
            pci_setup_iommu(root, &pci_ops, rm);
        }
        return;
    }
    vdev = (VirtIODevice *)object_dynamic_cast(OBJECT(dev),
                                               TYPE_VIRTIO_DEVICE);
    if (!vdev || vdev->dma_as != &address_space_memory) {
        return;
    }
    pci = (PCIDevice *)object_dynamic_cast(
        OBJECT(qdev_get_parent_bus(dev)->parent), TYPE_PCI_DEVICE);
    if (pci) {
        vdev->dma_as = pci_device_iommu_address_space(pci);
    }
}

/*
 * A device goes, or the bridge whose bus it is on: its name stays with what is
 * in the journal, and whoever comes to its place is somebody else.
 */
static void device_unrealized(DeviceListener *listener, DeviceState *dev)
{
    RestrictedMemory *rm = restricted_memory();

    for (unsigned i = 0; i < rm->spaces->len; i++) {
        RestrictedSpace *space = g_ptr_array_index(rm->spaces, i);
        RestrictedActor *actor = &space->actor;

        if (actor->bus
            && (BUS(actor->bus)->parent == dev
                || (dev->parent_bus == BUS(actor->bus)
                    && PCI_DEVICE(dev)->devfn == actor->devfn))) {
            actor->name = device_name(dev->parent_bus == BUS(actor->bus)
                                      ? PCI_DEVICE(dev) : NULL, actor->devfn);
            actor->bus = NULL;
        }
    }
}

static DeviceListener device_listener = {
    .realize = device_realized,
    .unrealize = device_unrealized,
};

/*
 * A PC decides in 16 KiB steps, at run time, what shows between 640 KiB and
 * 1 MiB: RAM there has no fixed place and no slot.
 */
#define PC_SHADOW_START 0xa0000
#define PC_SHADOW_END   0x100000

typedef struct SlotScan {
    RestrictedMemory *rm;
    GArray *slots;
    hwaddr hole_start, hole_end;
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

/* Where the machine put the backend: look, so as not to know machines. */
static void spaces_find_slots(RestrictedMemory *rm)
{
    SlotScan scan = {
        .rm = rm, .slots = g_array_new(false, false, sizeof(RestrictedSlot)),
    };

    if (object_dynamic_cast(OBJECT(current_machine), TYPE_X86_MACHINE)) {
        scan.hole_start = PC_SHADOW_START;
        scan.hole_end = PC_SHADOW_END;
    }

    RCU_READ_LOCK_GUARD();
    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            scan_slot, &scan);
    rm->nslots = scan.slots->len;
    rm->slots = (RestrictedSlot *)g_array_free(scan.slots, false);
}

void restricted_spaces_machine_done(RestrictedMemory *rm)
{
    FWCfgState *fw_cfg = fw_cfg_find();
    RestrictedSpace *space;

    spaces_find_slots(rm);
    memory_region_transaction_begin();
    for (unsigned i = 0; i < rm->spaces->len; i++) {
        space_map(rm, g_ptr_array_index(rm->spaces, i));
    }
    memory_region_transaction_commit();
    if (fw_cfg && fw_cfg->dma_as) {
        space = space_new(rm, "fw_cfg");
        rm->fw_cfg = &space->actor;
        fw_cfg->dma_as = &space->as;
    }
}

void restricted_spaces_init(RestrictedMemory *rm)
{
    rm->spaces = g_ptr_array_new();
    rm->actors = g_ptr_array_new();
    restricted_actor_add(rm, &rm->monitor, RMEM_A_MONITOR, "monitor");
    restricted_actor_add(rm, &rm->gdb, RMEM_A_GDB, "gdb");
    restricted_actor_add(rm, &rm->host, RMEM_A_HOST, "host");
    restricted_actor_add(rm, &rm->loader, RMEM_A_LOADER, "loader");
    qemu_mutex_init(&rm->seen_lock);
    device_listener_register(&device_listener);
}
