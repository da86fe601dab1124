/*
 * PCI devices: a guarded address space for each, under its name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/virtio/virtio.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/pci.h"
#include "hw/restricted-memory/qemu/spaces.h"

static char *device_name(const PCIDevice *dev, int devfn)
{
    if (dev && DEVICE(dev)->id) {
        return g_strdup(DEVICE(dev)->id);
    }
    return g_strdup_printf("%s@%02x.%x",
                           dev ? object_get_typename(OBJECT(dev)) : "pci",
                           PCI_SLOT(devfn), PCI_FUNC(devfn));
}

char *restricted_pci_name(const RestrictedActor *actor)
{
    return device_name(pci_find_device(actor->bus, pci_bus_num(actor->bus),
                                       actor->devfn), actor->devfn);
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
    space = restricted_space_new(rm, NULL);
    space->actor.bus = bus;
    space->actor.devfn = devfn;
    return &space->as;
}

static const PCIIOMMUOps pci_ops = {
    .get_address_space = pci_space,
};

/*
 * A device was realized: put the guard between its bus and memory. Virtio
 * without iommu_platform bypasses the bus, so send it through the bus as well.
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
 * A device is unplugged, or the bridge above it: the journal keeps its name,
 * and a device that is plugged in its place is another actor.
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

void restricted_pci_init(void)
{
    device_listener_register(&device_listener);
}
