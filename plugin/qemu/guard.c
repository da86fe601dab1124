/*
 * The guard: what the host sees where guest RAM is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An IOMMU region stands in place of RAM. A shared page translates to the
 * shared RAM, anything else is judged. A denied access translates to a
 * *blocked* region and not to "no permission", as hw/misc/tz-mpc.c does: a
 * read of zeros and a bus error for whoever looks.
 *
 * Each PCI device gets an address space of its own, with a guard of its own,
 * so that an access has a name. What does not go through a bus (ISA DMA, a
 * monitor command) meets the guard in system memory, under "host".
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "exec/address-spaces.h"
#include "hw/core/cpu.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/pci/pci.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "monitor/monitor.h"
#include "qemu/lockable.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

/* Index of a translation: who asks, as far as the attributes tell. */
enum { GUARD_PLAIN, GUARD_DEBUG, GUARD_UNSPECIFIED, GUARD_INDEXES };

/* Shared RAM is passed in pieces this large where it is uniform. */
#define GUARD_BLOCK_BITS 20

OBJECT_DECLARE_SIMPLE_TYPE(RestrictedGuard, RESTRICTED_GUARD)

static MemTxResult blocked_read(void *opaque, hwaddr addr, uint64_t *data,
                                unsigned size, MemTxAttrs attrs)
{
    *data = 0;
    return MEMTX_ERROR;
}

static MemTxResult blocked_write(void *opaque, hwaddr addr, uint64_t data,
                                 unsigned size, MemTxAttrs attrs)
{
    return MEMTX_ERROR;
}

static MemTxResult zero_read(void *opaque, hwaddr addr, uint64_t *data,
                             unsigned size, MemTxAttrs attrs)
{
    *data = 0;
    return MEMTX_OK;
}

static MemTxResult zero_write(void *opaque, hwaddr addr, uint64_t data,
                              unsigned size, MemTxAttrs attrs)
{
    return MEMTX_OK;
}

static const MemoryRegionOps blocked_ops = {
    .read_with_attrs = blocked_read,
    .write_with_attrs = blocked_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

static const MemoryRegionOps zero_ops = {
    .read_with_attrs = zero_read,
    .write_with_attrs = zero_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

char *restricted_actor_name(const RestrictedActor *actor)
{
    PCIDevice *dev;

    if (actor->name) {
        return g_strdup(actor->name);
    }
    dev = pci_find_device(actor->bus, pci_bus_num(actor->bus), actor->devfn);
    if (dev && DEVICE(dev)->id) {
        return g_strdup(DEVICE(dev)->id);
    }
    return g_strdup_printf("%s@%02x.%x",
                           dev ? object_get_typename(OBJECT(dev)) : "pci",
                           PCI_SLOT(actor->devfn), PCI_FUNC(actor->devfn));
}

RestrictedActor *restricted_actor_running(RestrictedMemory *rm, bool debug)
{
    if (monitor_cur()) {
        return &rm->monitor;
    }
    return debug ? &rm->gdb : &rm->host;
}

static void actor_add(RestrictedMemory *rm, RestrictedActor *actor,
                      RmemActor kind, const char *name)
{
    actor->kind = kind;
    actor->name = name;
    actor->index = rm->actors->len;
    g_ptr_array_add(rm->actors, actor);
}

/*
 * True the first time since the last change of states: a retry is not a new
 * fault, an access after a conversion is.
 */
static bool actor_fault_is_new(RestrictedMemory *rm, RestrictedActor *actor,
                               uint64_t page, bool write)
{
    uint64_t generation = qatomic_read(&rm->core.shared->generation);
    gint64 key = page << 1 | write;

    QEMU_LOCK_GUARD(&rm->seen_lock);
    if (!actor->seen) {
        actor->seen = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                            g_free, NULL);
    }
    if (actor->seen_generation != generation) {
        g_hash_table_remove_all(actor->seen);
        actor->seen_generation = generation;
    }
    return g_hash_table_add(actor->seen, g_memdup2(&key, sizeof(key)));
}

typedef struct GuardAccess {
    RestrictedMemory *rm;
    RestrictedActor *actor;
    uint64_t offset;
    bool write;
} GuardAccess;

static void access_record(const GuardAccess *access, RmemState state,
                          RmemVerdict verdict)
{
    RestrictedMemory *rm = access->rm;
    RestrictedActor *actor = access->actor;
    uint64_t page = access->offset >> RMEM_PAGE_BITS;
    uint64_t gpa = restricted_offset_to_gpa(rm, access->offset);
    RmemRecord rec = {
        .kind = RMEM_K_HOST_FAULT, .gpa = gpa, .pages = 1,
        .actor = actor->kind, .device = actor->index,
        .from = state, .to = state, .verdict = verdict,
        .flags = access->write ? RMEM_F_WRITE : 0,
        .rip = restricted_guest_rip(current_cpu),
    };

    rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, 1);
    if (!actor_fault_is_new(rm, actor, page, access->write)) {
        return;
    }
    if (verdict != RMEM_V_ALLOW) {
        rmem_count(&rm->core, RMEM_C_HOST_FAULTS, 1);
        qatomic_inc(&actor->faults);
    }
    trace_rmem_host_fault(gpa, actor->index, access->write, state, verdict);
    restricted_record(rm, &rec);
}

/* Policy share: convert in place, on behalf of a device. */
static bool access_share(const GuardAccess *access)
{
    RestrictedMemory *rm = access->rm;
    RmemState old;
    RmemRefusal refusal;

    WITH_QEMU_LOCK_GUARD(&rm->lock) {
        refusal = rmem_apply_page(&rm->core, access->offset >> RMEM_PAGE_BITS,
                                  RMEM_TO_SHARED, &old);
    }
    if (refusal != RMEM_OK) {
        return false;
    }
    if (old != RMEM_SHARED) {
        RmemRecord rec = {
            .kind = RMEM_K_CONVERT, .pages = 1,
            .gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1),
            .actor = access->actor->kind, .device = access->actor->index,
            .from = old, .to = RMEM_SHARED, .verdict = RMEM_V_SHARE,
            .flags = access->write ? RMEM_F_WRITE : 0,
            .rip = restricted_guest_rip(current_cpu),
        };

        qatomic_inc(&access->actor->converted);
        rmem_count(&rm->core, RMEM_C_CONVERSIONS, 1);
        trace_rmem_page_convert(rec.gpa, 1, old, RMEM_SHARED);
        restricted_record(rm, &rec);
    }
    return true;
}

static void access_stop_vm(void)
{
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_PAUSED);
    if (current_cpu) {
        cpu_stop_current();
    }
}

/* The loader places the launch image until the guest's kernel runs. */
static bool access_is_loading(const GuardAccess *access)
{
    const RestrictedMemory *rm = access->rm;

    return access->actor == &rm->loader
           || (!qatomic_read(&rm->sealed)
               && (access->actor == rm->fw_cfg
                   || (rm->profile->devices_load
                       && access->actor->kind == RMEM_A_DEVICE)));
}

static AddressSpace *access_load(const GuardAccess *access, RmemState state)
{
    RestrictedMemory *rm = access->rm;
    RmemState old = state;

    if (access->write && state == RMEM_PENDING) {
        WITH_QEMU_LOCK_GUARD(&rm->lock) {
            rmem_apply_page(&rm->core, access->offset >> RMEM_PAGE_BITS,
                            RMEM_LOAD, &old);
        }
    }
    if (old == RMEM_PENDING) {
        RmemRecord rec = {
            .kind = RMEM_K_LOAD, .pages = 1,
            .gpa = restricted_offset_to_gpa(rm, access->offset)
                   & ~(RMEM_PAGE_SIZE - 1),
            .actor = RMEM_A_LOADER, .device = RMEM_NO_DEVICE,
            .from = old, .to = RMEM_PRIVATE,
        };

        restricted_record(rm, &rec);
    }
    return &rm->private_as;
}

/* A host access to a page that is not shared: where does it go? */
static AddressSpace *access_judge(const GuardAccess *access, RmemState state)
{
    RestrictedMemory *rm = access->rm;
    RmemVerdict verdict = (RmemVerdict)qatomic_read(&rm->policy);

    if (state != RMEM_POISONED) {
        if (access_is_loading(access)) {
            return access_load(access, state);
        }
        if (rm->debuggable && (access->actor->kind == RMEM_A_MONITOR
                               || access->actor->kind == RMEM_A_GDB)) {
            access_record(access, state, RMEM_V_ALLOW);
            return &rm->private_as;
        }
        if (verdict == RMEM_V_SHARE && access_share(access)) {
            return &rm->shared_as;
        }
    }
    if (verdict == RMEM_V_SHARE
        || (state == RMEM_POISONED && verdict == RMEM_V_ZERO)) {
        verdict = RMEM_V_DENY;
    }
    access_record(access, state, verdict);
    if (verdict == RMEM_V_STOP) {
        access_stop_vm();
    }
    return verdict == RMEM_V_ZERO ? &rm->zero_as : &rm->blocked_as;
}

/*
 * How much around @offset, a shared page, is shared as well: the answer's
 * address mask. Addresses in the region equal those in the target, so any
 * alignment works. The last block found uniform is remembered.
 */
static hwaddr guard_shared_mask(RestrictedGuard *guard, uint64_t offset)
{
    const Rmem *core = &guard->rm->core;
    const uint64_t pages = UINT64_C(1) << (GUARD_BLOCK_BITS - RMEM_PAGE_BITS);
    uint64_t block = offset >> GUARD_BLOCK_BITS;
    uint64_t key = qatomic_read(&core->shared->generation) << 32 | (block + 1);

    if (qatomic_read(&guard->uniform) == key) {
        return (UINT64_C(1) << GUARD_BLOCK_BITS) - 1;
    }
    if ((block + 1) << GUARD_BLOCK_BITS <= core->pages << RMEM_PAGE_BITS
        && rmem_run_at(core, block * pages, pages).count == pages) {
        qatomic_set(&guard->uniform, key);
        return (UINT64_C(1) << GUARD_BLOCK_BITS) - 1;
    }
    return RMEM_PAGE_SIZE - 1;
}

/* A guest CPU: by a TLB fill, or by a walk that bypasses the TLB. */
static AddressSpace *guard_cpu_view(RestrictedMemory *rm, uint64_t page,
                                    IOMMUAccessFlags *perm)
{
    switch (restricted_cpu_touch(rm, page)) {
    case RMEM_SHARED:
        return &rm->shared_as;
    case RMEM_PRIVATE:
        return &rm->private_as;
    default:
        *perm = IOMMU_NONE;
        return &rm->blocked_as;
    }
}

/*
 * ROMs are loaded before any guest CPU runs. Shadow RAM has no slot, so every
 * address space meets the guard of system memory there: while firmware runs,
 * that is fw_cfg, which places option ROMs.
 */
static bool guard_is_loader(RestrictedMemory *rm, uint64_t offset)
{
    uint64_t phase = qatomic_read(&rm->core.shared->phase);

    return phase == RMEM_PH_LAUNCH
           || (!qatomic_read(&rm->sealed)
               && !restricted_slot(rm, restricted_offset_to_gpa(rm, offset)));
}

/* Who is behind an access. */
static RestrictedActor *guard_actor(RestrictedGuard *guard, int index,
                                    uint64_t offset)
{
    RestrictedMemory *rm = guard->rm;
    bool debug = index == GUARD_DEBUG;

    if (guard->actor) {
        return guard->actor;
    }
    if (!monitor_cur() && !debug && guard_is_loader(rm, offset)) {
        return &rm->loader;
    }
    return restricted_actor_running(rm, debug);
}

static IOMMUTLBEntry guard_translate(IOMMUMemoryRegion *iommu, hwaddr addr,
                                     IOMMUAccessFlags flag, int index)
{
    RestrictedGuard *guard = container_of(iommu, RestrictedGuard, iommu);
    RestrictedMemory *rm = guard->rm;
    uint64_t page = addr >> RMEM_PAGE_BITS;
    RmemState state = rmem_state(&rm->core, page);
    IOMMUTLBEntry entry = {
        .addr_mask = RMEM_PAGE_SIZE - 1,
        .perm = IOMMU_RW,
    };

    if (flag == IOMMU_NONE || (guard->cpu_physical && index == GUARD_PLAIN)) {
        entry.target_as = guard_cpu_view(rm, page, &entry.perm);
    } else if (state == RMEM_SHARED) {
        entry.target_as = &rm->shared_as;
        entry.addr_mask = guard_shared_mask(guard, addr);
    } else {
        GuardAccess access = {
            .rm = rm, .actor = guard_actor(guard, index, addr),
            .offset = addr,
            .write = flag & IOMMU_WO,
        };

        entry.target_as = access_judge(&access, state);
    }
    entry.iova = addr & ~entry.addr_mask;
    entry.translated_addr = entry.iova;
    trace_rmem_translate(addr, flag, state, entry.addr_mask);
    return entry;
}

static int guard_attrs_to_index(IOMMUMemoryRegion *iommu, MemTxAttrs attrs)
{
    if (attrs.debug) {
        return GUARD_DEBUG;
    }
    return attrs.unspecified ? GUARD_UNSPECIFIED : GUARD_PLAIN;
}

static int guard_num_indexes(IOMMUMemoryRegion *iommu)
{
    return GUARD_INDEXES;
}

/* Listeners that mirror RAM would mirror what they must not see: show none. */
static void guard_replay(IOMMUMemoryRegion *iommu, IOMMUNotifier *notifier)
{
}

static void guard_init(RestrictedMemory *rm, RestrictedGuard *guard,
                       RestrictedActor *actor, const char *name)
{
    memory_region_init_iommu(guard, sizeof(*guard), TYPE_RESTRICTED_GUARD,
                             OBJECT(rm), name, MEMORY_BACKEND(rm)->size);
    guard->rm = rm;
    guard->actor = actor;
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

    actor_add(rm, &space->actor, RMEM_A_DEVICE, name);
    guard_init(rm, &space->guard, &space->actor, "restricted-guard-device");
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

static DeviceListener device_listener = {
    .realize = device_realized,
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
static void guard_find_slots(RestrictedMemory *rm)
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

void restricted_guard_machine_done(RestrictedMemory *rm)
{
    FWCfgState *fw_cfg = fw_cfg_find();
    RestrictedSpace *space;

    guard_find_slots(rm);
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

static void guard_view_init(RestrictedMemory *rm, MemoryRegion *mr,
                            const MemoryRegionOps *ops, AddressSpace *as,
                            const char *name)
{
    memory_region_init_io(mr, OBJECT(rm), ops, rm, name,
                          MEMORY_BACKEND(rm)->size);
    address_space_init(as, mr, name);
}

void restricted_guard_init(RestrictedMemory *rm)
{
    rm->spaces = g_ptr_array_new();
    rm->actors = g_ptr_array_new();
    actor_add(rm, &rm->monitor, RMEM_A_MONITOR, "monitor");
    actor_add(rm, &rm->gdb, RMEM_A_GDB, "gdb");
    actor_add(rm, &rm->host, RMEM_A_HOST, "host");
    actor_add(rm, &rm->loader, RMEM_A_LOADER, "loader");
    qemu_mutex_init(&rm->seen_lock);

    guard_view_init(rm, &rm->blocked, &blocked_ops, &rm->blocked_as,
                    "restricted-blocked");
    guard_view_init(rm, &rm->zero, &zero_ops, &rm->zero_as,
                    "restricted-zero");
    address_space_init(&rm->private_as, &rm->private_ram,
                       "restricted-private");
    address_space_init(&rm->shared_as, restricted_shared_ram(rm),
                       "restricted-shared");

    guard_init(rm, &rm->guard, NULL, "restricted-guard");
    memory_region_add_subregion(&MEMORY_BACKEND(rm)->mr, 0,
                                MEMORY_REGION(&rm->guard.iommu));
    guard_init(rm, &rm->cpu_guard, NULL, "restricted-cpu-guard");
    rm->cpu_guard.cpu_physical = true;
    device_listener_register(&device_listener);
}

static void guard_class_init(ObjectClass *oc, void *data)
{
    IOMMUMemoryRegionClass *imrc = IOMMU_MEMORY_REGION_CLASS(oc);

    imrc->translate = guard_translate;
    imrc->attrs_to_index = guard_attrs_to_index;
    imrc->num_indexes = guard_num_indexes;
    imrc->replay = guard_replay;
}

static const TypeInfo guard_info = {
    .name = TYPE_RESTRICTED_GUARD,
    .parent = TYPE_IOMMU_MEMORY_REGION,
    .instance_size = sizeof(RestrictedGuard),
    .class_init = guard_class_init,
};

static void guard_register_types(void)
{
    type_register_static(&guard_info);
}

type_init(guard_register_types)
