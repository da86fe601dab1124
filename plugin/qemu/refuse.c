/*
 * What cannot work with restricted memory is refused, with a reason.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "qom/object.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/logs.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/refuse.h"

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
    { "sp-mem", "memory cannot be hotplugged" },
    { "vhost-user-*", "a vhost-user process would map guest memory unguarded" },
    { "vhost-*", "a vhost process would map guest memory unguarded" },
    { "vfio-*", "a host device would reach guest memory unguarded" },
    { "*-iommu*", "the guard takes the place of the IOMMU" },
};

static void refuse_driver(const char *driver, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused_devices); i++) {
        const RefusedDevice *refused = &refused_devices[i];

        if (g_pattern_match_simple(refused->pattern, driver)) {
            error_setg(errp, "%s cannot be used with %s: %s", driver,
                       TYPE_MEMORY_BACKEND_RESTRICTED, refused->reason);
            return;
        }
    }
}

#define NETDEVS_MAX 64

/*
 * All are looked at, and not the one that a device names: a device finds its
 * back end by -device, -net nic, -nic, -global, or by default.
 */
bool restricted_refuse_vhost(Error **errp)
{
    NetClientState *found[NETDEVS_MAX];
    int n = qemu_find_net_clients_except(NULL, found, NET_CLIENT_DRIVER_NIC,
                                         NETDEVS_MAX);

    if (n > NETDEVS_MAX) {
        error_setg(errp, "%s: %d network back ends are more than are looked at",
                   TYPE_MEMORY_BACKEND_RESTRICTED, n);
        return true;
    }
    for (int i = 0; i < n; i++) {
        if (get_vhost_net(found[i])
            || found[i]->info->type == NET_CLIENT_DRIVER_VHOST_USER
            || found[i]->info->type == NET_CLIENT_DRIVER_VHOST_VDPA) {
            error_setg(errp, "netdev '%s' cannot be used with %s: vhost would "
                       "map guest memory unguarded", found[i]->name,
                       TYPE_MEMORY_BACKEND_RESTRICTED);
            return true;
        }
    }
    return false;
}

static bool refuse_device(DeviceListener *listener, const QDict *opts,
                          bool from_json, Error **errp)
{
    const char *driver = qdict_get_try_str(opts, "driver");

    if (driver) {
        refuse_driver(driver, errp);
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
    if (!restricted_recording_check(errp)
        || !restricted_handover_check(rm, errp)) {
        return false;
    }
    if (machine->maxram_size > machine->ram_size) {
        error_setg(errp, "%s: memory cannot be hotplugged; drop maxmem",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    return !restricted_refuse_vhost(errp)
           && restricted_logs_check(rm, errp)
           && rm->arch->check_machine(errp);
}

void restricted_refuse(RestrictedMemory *rm, RestrictedWhole whole,
                       const char *what, Error **errp)
{
    RestrictedActor *actor = restricted_actor_running(rm, false);
    bool state = whole == RESTRICTED_CPU_STATE;
    RmemRecord rec = {
        .kind = RMEM_K_HOST_FAULT, .actor = actor->kind,
        .device = actor->index, .verdict = RMEM_V_DENY,
        .from = RMEM_PRIVATE, .to = RMEM_PRIVATE,
        .pages = state ? 0 : MIN(rm->core.pages, UINT32_MAX),
        .flags = state ? RMEM_F_STATE : 0,
    };

    rmem_count(&rm->core, RMEM_C_HOST_FAULTS, 1);
    rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, 1);
    qatomic_inc(&actor->faults);
    restricted_record(rm, &rec);
    error_setg(errp, state ? "%s%sthe CPU state of this guest is encrypted, "
                             "the host may not see it; start the VM with "
                             "debuggable=on"
                           : "%s%sthe machine's memory is restricted, the host "
                             "may not read it as a whole",
               what ?: "", what ? ": " : "");
}

void restricted_refuse_init(void)
{
    device_listener_register(&refuse_listener);
}
