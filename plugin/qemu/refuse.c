/*
 * What cannot work with restricted memory is refused, with a reason.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "system/cpu-timers.h"
#include "hw/qdev-core.h"
#include "monitor/monitor.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "hw/restricted-memory/restricted.h"

typedef struct RefusedDevice {
    const char *pattern;        /* of the driver name, as a glob */
    const char *reason;
} RefusedDevice;

static const RefusedDevice refused_devices[] = {
    { "virtio-balloon*", "a balloon would discard memory that is the guest's; "
      "use restricted-memory-discard" },
    { "virtio-mem*", "memory cannot be plugged or unplugged" },
    { "virtio-pmem*", "its memory would be outside the backend" },
    { "cxl-type3", "its memory would be outside the backend" },
    { "pc-dimm", "memory cannot be hotplugged" },
    { "nvdimm", "memory cannot be hotplugged" },
    { "vhost-user-*", "a vhost-user process would map guest memory unguarded" },
    { "vhost-*", "a vhost process would map guest memory unguarded" },
    { "vfio-*", "a host device would reach guest memory unguarded" },
    { "intel-iommu", "the guard takes the place of the IOMMU" },
    { "amd-iommu", "the guard takes the place of the IOMMU" },
    { "virtio-iommu*", "the guard takes the place of the IOMMU" },
};

static bool refuse_driver(const char *driver, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused_devices); i++) {
        const RefusedDevice *refused = &refused_devices[i];

        if (g_pattern_match_simple(refused->pattern, driver)) {
            error_setg(errp, "%s cannot be used with %s: %s", driver,
                       TYPE_MEMORY_BACKEND_RESTRICTED, refused->reason);
            return true;
        }
    }
    return false;
}

/* -netdev ...,vhost=on and -netdev vhost-user */
static bool refuse_netdev(const char *netdev, Error **errp)
{
    NetClientState *peer = qemu_find_netdev(netdev);

    if (peer && (get_vhost_net(peer)
                 || peer->info->type == NET_CLIENT_DRIVER_VHOST_USER
                 || peer->info->type == NET_CLIENT_DRIVER_VHOST_VDPA)) {
        error_setg(errp, "netdev '%s' cannot be used with %s: vhost would map "
                   "guest memory unguarded", netdev,
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return true;
    }
    return false;
}

static bool refuse_device(DeviceListener *listener, const QDict *opts,
                          bool from_json, Error **errp)
{
    const char *driver = qdict_get_try_str(opts, "driver");
    const char *netdev = qdict_get_try_str(opts, "netdev");

    if (driver && refuse_driver(driver, errp)) {
        return false;
    }
    if (netdev) {
        refuse_netdev(netdev, errp);
    }
    return false;
}

static DeviceListener refuse_listener = {
    .hide_device = refuse_device,
};

bool restricted_refuse_machine(RestrictedMemory *rm, Error **errp)
{
    MachineState *machine = current_machine;

    if (machine->memdev != MEMORY_BACKEND(rm)) {
        error_setg(errp, "%s '%s' is not the machine's memory; say "
                   "-machine memory-backend=%s", TYPE_MEMORY_BACKEND_RESTRICTED,
                   object_get_canonical_path_component(OBJECT(rm)),
                   object_get_canonical_path_component(OBJECT(rm)));
        return false;
    }
    if (!tcg_enabled()) {
        error_setg(errp, "%s emulates restricted memory for -accel tcg; with "
                   "another accelerator use guest_memfd",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (icount_enabled()) {
        error_setg(errp, "%s: the journal's clock cannot be read within an "
                   "instruction; drop -icount", TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (!restricted_handover_check(errp)) {
        return false;
    }
    if (machine->maxram_size > machine->ram_size) {
        error_setg(errp, "%s: memory cannot be hotplugged; drop maxmem",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (object_dynamic_cast(OBJECT(machine), TYPE_X86_MACHINE)
        && x86_machine_is_smm_enabled(X86_MACHINE(machine))) {
        error_setg(errp, "%s: system management mode would see private "
                   "memory; say -machine smm=off",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    return true;
}

bool restricted_memory_refuse(const char *what, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();
    RestrictedActor *actor;
    RmemRecord rec;

    if (!rm) {
        return false;
    }
    actor = restricted_actor_running(rm, false);
    rec = (RmemRecord) {
        .kind = RMEM_K_HOST_FAULT, .actor = actor->kind,
        .device = actor->index, .verdict = RMEM_V_DENY,
        .from = RMEM_PRIVATE, .to = RMEM_PRIVATE,
        .pages = MIN(rm->core.pages, UINT32_MAX),
    };
    rmem_count(&rm->core, RMEM_C_HOST_FAULTS, 1);
    rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, 1);
    qatomic_inc(&actor->faults);
    restricted_record(rm, &rec);
    error_setg(errp, "%s: the machine's memory is restricted, the host may "
               "not read it as a whole", what);
    return true;
}

void restricted_refuse_init(RestrictedMemory *rm)
{
    /* The patcher of Windows guests reads RAM behind everybody's back. */
    object_register_sugar_prop("apic-common", "vapic", "off", true);
    device_listener_register(&refuse_listener);
}
