/*
 * The guard: what the host sees where guest RAM is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An IOMMU region takes the place of RAM. A shared page translates to the
 * shared RAM, an access to any other page is judged. A denied access translates
 * to a *blocked* region and not to "no permission", as in hw/misc/tz-mpc.c: it
 * reads zeros and returns a bus error.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "hw/core/cpu.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/guard.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/trace.h"

/* Index of a translation: the kind of access, as far as attributes tell. */
enum { GUARD_PLAIN, GUARD_DEBUG, GUARD_UNSPECIFIED, GUARD_INDEXES };

/* Shared RAM translates in pieces of this size where it is uniform. */
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

/* What is around a shared page, in its block. */
enum { BLOCK_MIXED, BLOCK_MAYBE_STALE, BLOCK_SHARED, BLOCK_KINDS = 3 };

/*
 * A device goes back and forth between its rings, in blocks of pages in several
 * states, and its buffers, and a look at the table costs system calls. So the
 * answer is remembered until a state changes. A page turns stale only then.
 */
static unsigned guard_block(RestrictedGuard *guard, uint64_t block)
{
    const Rmem *core = &guard->rm->core;
    const uint64_t pages = UINT64_C(1) << (GUARD_BLOCK_BITS - RMEM_PAGE_BITS);
    uint64_t *known = &guard->known[block % ARRAY_SIZE(guard->known)];
    uint64_t key = qatomic_read(&core->generation) << 32 | (block + 1) << 2;
    uint64_t seen = qatomic_read(known);
    unsigned kind = seen & BLOCK_KINDS;

    if (seen - kind != key) {
        kind = rmem_run_at(core, block * pages, pages).count == pages
               ? BLOCK_MAYBE_STALE : BLOCK_MIXED;
    }
    if (kind == BLOCK_MAYBE_STALE
        && !(core->profile->scrambles
             && rmem_any_stale(core, block * pages, pages))) {
        kind = BLOCK_SHARED;
    }
    if (seen != (key | kind)) {
        qatomic_set(known, key | kind);
    }
    return kind;
}

/*
 * The address mask of the answer: how much around @offset, a shared page, is
 * shared as well. Addresses in the region equal those in the target, so any
 * alignment works. A stale page gets an answer of its own, because it must be
 * settled before it is reached.
 */
static hwaddr guard_shared_mask(RestrictedGuard *guard, uint64_t offset)
{
    uint64_t block = offset >> GUARD_BLOCK_BITS;
    uint64_t end = (block + 1) << GUARD_BLOCK_BITS;

    if (end <= guard->rm->core.pages << RMEM_PAGE_BITS
        && guard_block(guard, block) == BLOCK_SHARED) {
        return (UINT64_C(1) << GUARD_BLOCK_BITS) - 1;
    }
    return RMEM_PAGE_SIZE - 1;
}

/*
 * A debugger follows the guest's page tables, on no CPU: it changes nothing,
 * and private tables are private memory.
 */
static AddressSpace *guard_debug_walk(RestrictedMemory *rm, hwaddr offset,
                                      RmemState state)
{
    RestrictedAccess access = {
        .rm = rm, .actor = restricted_actor_running(rm, true),
        .offset = offset,
    };

    switch (state) {
    case RMEM_SHARED:
        return &rm->shared_as;
    case RMEM_PRIVATE:
        return rm->debuggable || restricted_state_translates()
               ? &rm->private_as : restricted_judge(&access, state);
    case RMEM_PENDING:
        return &rm->zero_as;
    default:
        return &rm->blocked_as;
    }
}

/* The access of a guest CPU: a TLB fill, or a page walk without the TLB. */
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
 * ROMs are loaded before any guest CPU runs. Shadow RAM has no slot, so all
 * address spaces meet the guard of system memory there. While firmware runs,
 * such an access comes from fw_cfg, which places option ROMs.
 */
static bool guard_is_loader(RestrictedMemory *rm, uint64_t offset)
{
    return rmem_phase(&rm->core) == RMEM_PH_LAUNCH
           || (!qatomic_read(&rm->sealed)
               && !restricted_slot(rm, restricted_offset_to_gpa(rm, offset)));
}

/* The actor behind an access. */
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
        entry.target_as = current_cpu
                          ? guard_cpu_view(rm, page, &entry.perm)
                          : guard_debug_walk(rm, addr, state);
    } else if (state == RMEM_SHARED) {
        restricted_settle(rm, page);
        entry.target_as = &rm->shared_as;
        entry.addr_mask = guard_shared_mask(guard, addr);
    } else {
        RestrictedAccess access = {
            .rm = rm, .actor = guard_actor(guard, index, addr),
            .offset = addr,
            .write = flag & IOMMU_WO,
        };

        entry.target_as = restricted_judge(&access, state);
        if (entry.target_as == &rm->shared_as
            || entry.target_as == &rm->private_as) {
            restricted_settle(rm, page);
        }
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

/* Listeners that mirror RAM must not see private pages: show them nothing. */
static void guard_replay(IOMMUMemoryRegion *iommu, IOMMUNotifier *notifier)
{
}

void restricted_guard_setup(RestrictedMemory *rm, RestrictedGuard *guard,
                            RestrictedActor *actor, const char *name)
{
    memory_region_init_iommu(guard, sizeof(*guard), TYPE_RESTRICTED_GUARD,
                             OBJECT(rm), name, MEMORY_BACKEND(rm)->size);
    guard->rm = rm;
    guard->actor = actor;
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
    guard_view_init(rm, &rm->blocked, &blocked_ops, &rm->blocked_as,
                    "restricted-blocked");
    guard_view_init(rm, &rm->zero, &zero_ops, &rm->zero_as,
                    "restricted-zero");
    address_space_init(&rm->private_as, &rm->private_ram,
                       "restricted-private");
    address_space_init(&rm->shared_as, restricted_shared_ram(rm),
                       "restricted-shared");

    restricted_guard_setup(rm, &rm->guard, NULL, "restricted-guard");
    memory_region_add_subregion(&MEMORY_BACKEND(rm)->mr, 0,
                                MEMORY_REGION(&rm->guard.iommu));
    restricted_guard_setup(rm, &rm->cpu_guard, NULL, "restricted-cpu-guard");
    rm->cpu_guard.cpu_physical = true;
}

static void guard_class_init(ObjectClass *oc, CompatClassData *data)
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
