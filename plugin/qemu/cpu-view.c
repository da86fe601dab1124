/*
 * What guest CPUs see of restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every guest CPU's address space has this root:
 *
 *   0 ...                      system memory: MMIO, ROM, and, in place of
 *                              RAM, a guard for accesses without the TLB
 *   RESTRICTED_PRIVATE_VIEW    private RAM at its GPA
 *   RESTRICTED_SHARED_VIEW     shared RAM at its GPA
 *
 * A TLB fill of a RAM page is judged once, and the TLB entry leads to the view
 * that the page's state selects. So the check costs nothing on a TLB hit, and
 * the TLB, the translated code and dirty tracking see two ordinary RAM blocks.
 * RAM without a slot (a PC's shadow RAM below 1 MiB) is reached through the
 * guard in system memory, which calls restricted_cpu_touch() as well.
 */

#include "qemu/osdep.h"
#include "exec/cpu-common.h"
#include "hw/core/cpu.h"
#include "qemu/main-loop.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/trace.h"

uint64_t restricted_access_pc(const RestrictedMemory *rm)
{
    return current_cpu && current_cpu->mem_io_pc
           ? rm->arch->pc_at(current_cpu, current_cpu->mem_io_pc) : 0;
}

static uint64_t fill_pc(const RestrictedMemory *rm, const RestrictedFill *fill)
{
    if (!fill->ra) {
        /* Between two blocks of code: a fetch, or the page walk for one. */
        return fill->walk ? rm->arch->pc(fill->cpu)
               : fill->access == MMU_INST_FETCH ? fill->va : 0;
    }
    return rm->arch->pc_at(fill->cpu, fill->ra);
}

/*
 * The launch ends when the guest's own kernel runs. No firmware executes in
 * the upper half of the address space, every 64-bit kernel does.
 */
static void fill_phase(RestrictedMemory *rm, const RestrictedFill *fill)
{
    RmemPhase phase = rmem_phase(&rm->core);

    if (phase == RMEM_PH_LAUNCH) {
        restricted_phase(rm, RMEM_PH_FIRMWARE, 0);
    }
    if (fill->access != MMU_INST_FETCH) {
        return;
    }
    if (phase < RMEM_PH_KERNEL && (fill->user || (int64_t)fill->va < 0)) {
        restricted_phase(rm, RMEM_PH_KERNEL, fill->va);
    }
    if (fill->user) {
        restricted_phase(rm, RMEM_PH_USER, 0);
    }
}

static void record_accept(RestrictedMemory *rm, uint64_t page)
{
    RmemRecord rec = {
        .kind = RMEM_K_ACCEPT, .pages = 1,
        .gpa = restricted_page_to_gpa(rm, page),
        .actor = RMEM_A_VCPU, .device = RMEM_NO_DEVICE,
        .from = RMEM_PENDING, .to = RMEM_PRIVATE,
    };

    if (rm->profile->touch_is_fault) {
        rmem_count(&rm->core, RMEM_C_GUEST_FAULTS, 1);
    }
    trace_rmem_page_accept(rec.gpa);
    restricted_states_changed(rm, &(RestrictedPages){ page, 1 });
    restricted_record(rm, &rec);
}

/* Does a touch of @page, which is pending, accept it? */
static bool touch_accepts(RestrictedMemory *rm, uint64_t page)
{
    RmemState old;

    if (rm->core.profile->rules[RMEM_TOUCH][RMEM_PENDING].next
        != RMEM_PENDING) {
        return rmem_touch(&rm->core, page) == RMEM_PENDING;
    }
    /* The launch has placed it; it gets its storage when it is used. */
    return rmem_is_launch(&rm->core, page)
           && rmem_apply_page(&rm->core, page, RMEM_ACCEPT, &old) == RMEM_OK;
}

RmemState restricted_cpu_touch(RestrictedMemory *rm, uint64_t page)
{
    RmemState state = rmem_state(&rm->core, page);

    if (state == RMEM_PENDING && touch_accepts(rm, page)) {
        record_accept(rm, page);
        /*
         * An accepted page has storage. The guest is about to touch it
         * anyway, unless this is a probe. Use a store that changes nothing:
         * for a load the host would also look for neighbours to map.
         */
        qatomic_or(restricted_content(rm, page, RMEM_PRIVATE), 0);
        restricted_mark_dirty(rm, &rm->private_ram,
                              &(RestrictedPages){ page, 1 });
    }
    restricted_settle(rm, page);
    return state == RMEM_PENDING ? rmem_state(&rm->core, page) : state;
}

/* What the access was, for the record of its fault. */
static uint8_t fill_flags(const RestrictedMemory *rm,
                          const RestrictedFill *fill)
{
    static const uint8_t wanted[] = {
        [RESTRICTED_PRIVATE] = RMEM_F_AS_PRIVATE,
        [RESTRICTED_SHARED] = RMEM_F_AS_SHARED,
        [RESTRICTED_NEVER] = RMEM_F_AS_SHARED,
    };
    RestrictedFill copy = *fill;

    copy.prot = NULL;
    return (fill->access == MMU_DATA_STORE ? RMEM_F_WRITE : 0)
           | (fill->access == MMU_INST_FETCH ? RMEM_F_FETCH : 0)
           | (fill->walk ? RMEM_F_WALK : 0)
           | (fill->accepting ? RMEM_F_ACCEPTING : 0)
           | (rm->profile->alias ? wanted[rm->profile->alias(rm, &copy).want]
                                 : 0);
}

void restricted_guest_fault(RestrictedMemory *rm, const RestrictedFill *fill,
                            hwaddr gpa, RmemState state)
{
    RmemRecord rec = {
        .kind = RMEM_K_GUEST_FAULT, .pages = 1, .gpa = gpa,
        .actor = RMEM_A_VCPU, .device = RMEM_NO_DEVICE,
        .from = state, .to = state, .pc = fill_pc(rm, fill),
        .flags = fill_flags(rm, fill),
    };

    rmem_count(&rm->core, RMEM_C_GUEST_FAULTS, 1);
    trace_rmem_guest_fault(rec.gpa, state, rec.pc);
    restricted_record(rm, &rec);
    restricted_records_within(0);       /* what follows may not return here */
}

static hwaddr fill_poisoned(RestrictedMemory *rm, const RestrictedFill *fill,
                            hwaddr gpa)
{
    restricted_guest_fault(rm, fill, gpa, RMEM_POISONED);
    if (rm->arch->fills_fail) {
        return RESTRICTED_NOWHERE;
    }
    rm->arch->machine_check(fill->cpu, gpa, fill->ra);
    restricted_fill_again(fill);
}

bool restricted_fill_is_delivery(const RestrictedFill *fill)
{
    return !fill->ra && fill->access != MMU_INST_FETCH;
}

/*
 * EXCP_INTERRUPT leaves cpu_exec() at once. Without it, an exception whose
 * delivery has faulted would be delivered again and again, and work queued for
 * this CPU would never run. The instruction raises the exception again.
 */
void restricted_fill_again(const RestrictedFill *fill)
{
    restricted_records_within(0);
    fill->cpu->exception_index = EXCP_INTERRUPT;
    restricted_memory()->arch->drop_exception(fill->cpu);
    restricted_execute_again(fill->cpu, fill->ra);
}

void restricted_fill_stop(const RestrictedFill *fill, hwaddr gpa)
{
    RestrictedPlace at = { fill->cpu, fill_pc(restricted_memory(), fill) };

    restricted_stop_because(
        RESTRICTED_MEMORY_STOP_REASON_GUEST_FAULT, at,
        "vCPU %d touched the page at 0x%" PRIx64 ", and its state forbids it",
        fill->cpu->cpu_index, gpa & TARGET_PAGE_MASK);
    restricted_stop_vm();
    restricted_fill_again(fill);
}

static bool fill_is_astray(RestrictedWant want, RmemState state)
{
    switch (want) {
    case RESTRICTED_PRIVATE:
        return state != RMEM_PRIVATE;
    case RESTRICTED_SHARED:
        return state != RMEM_SHARED;
    case RESTRICTED_NEVER:
        return true;
    default:
        return state == RMEM_PENDING;
    }
}

/*
 * A profile without views accepts each page that is touched. One with views has
 * no meaning for them yet while its launch lasts, but a page that the host took
 * away must be accepted then, too, and nobody is there to do it.
 */
static hwaddr fill_fault(RestrictedMemory *rm, const RestrictedFill *fill,
                         RestrictedAlias alias, RmemState state)
{
    if (alias.want == RESTRICTED_BY_STATE) {
        restricted_guest_fault(rm, fill, alias.gpa, state);
        restricted_fill_stop(fill, alias.gpa);
    }
    rm->profile->fault(rm, fill, alias, state);
    g_assert(rm->arch->fills_fail);
    return RESTRICTED_NOWHERE;
}

/* Will the page's state, or a fault, be a record? */
static bool fill_is_an_event(const RestrictedMemory *rm, RestrictedWant want,
                             RmemState state)
{
    return state == RMEM_PENDING || state == RMEM_POISONED
           || fill_is_astray(want, state);
}

/* A page of RAM: the address of the view where its data is. */
static hwaddr fill_ram(RestrictedMemory *rm, const RestrictedFill *fill,
                       RestrictedAlias alias, uint64_t page)
{
    RmemState state;

    if (unlikely(icount_enabled())
        && fill_is_an_event(rm, alias.want, rmem_state(&rm->core, page))) {
        restricted_count_exactly(fill->cpu, fill->ra);
    }
    if (unlikely(rm->pending == RESTRICTED_MEMORY_PENDING_STOP)
        && rmem_state(&rm->core, page) == RMEM_PENDING) {
        restricted_guest_fault(rm, fill, alias.gpa, RMEM_PENDING);
        restricted_fill_stop(fill, alias.gpa);
    }
    if (unlikely(alias.want == RESTRICTED_NEVER)) {
        return fill_fault(rm, fill, alias, rmem_state(&rm->core, page));
    }
    state = restricted_cpu_touch(rm, page);
    if (state == RMEM_POISONED && !(rm->profile->poison_is_fault
                                    && alias.want != RESTRICTED_BY_STATE)) {
        return fill_poisoned(rm, fill, alias.gpa);
    }
    if (unlikely(fill_is_astray(alias.want, state))) {
        return fill_fault(rm, fill, alias, state);
    }
    /* Only a page with storage has content. */
    if (unlikely(qatomic_read(&rm->code_awaited))
        && fill->access == MMU_INST_FETCH
        && (state == RMEM_SHARED || state == RMEM_PRIVATE)) {
        rm->arch->code(rm, fill->cpu, restricted_content(rm, page, state));
    }
    return alias.gpa + (state == RMEM_SHARED ? RESTRICTED_SHARED_VIEW
                                             : RESTRICTED_PRIVATE_VIEW);
}

static hwaddr fill_address(RestrictedMemory *rm, const RestrictedFill *fill)
{
    RestrictedAlias alias = { .gpa = fill->pa };
    const RestrictedSlot *slot;

    if (rm->profile->alias) {
        alias = rm->profile->alias(rm, fill);
    }
    if (unlikely(rmem_phase(&rm->core) != RMEM_PH_USER)) {
        fill_phase(rm, fill);
    }
    slot = restricted_slot(rm, alias.gpa);
    if (slot) {
        return fill_ram(rm, fill, alias, (alias.gpa - slot->gpa + slot->offset)
                                         >> RMEM_PAGE_BITS);
    }
    /* Devices have clocks, and the guard judges what has no slot. */
    restricted_count_exactly(fill->cpu, fill->ra);
    return rm->profile->mmio ? rm->profile->mmio(rm, fill, alias) : alias.gpa;
}

hwaddr restricted_memory_fill(const RestrictedFill *fill)
{
    hwaddr address;

    restricted_records_within(fill->ra);
    address = fill_address(restricted_memory(), fill);
    restricted_records_within(0);
    return address;
}

MemoryRegion *restricted_memory_cpu_root(void)
{
    return &restricted_memory()->cpu_root;
}

/* At start, or plugged in later. */
static void cpu_realized(DeviceListener *listener, DeviceState *dev)
{
    if (object_dynamic_cast(OBJECT(dev), TYPE_CPU)) {
        CPUState *cpu = CPU(dev);

        /* The monitor reads through this; it must not reach the views. */
        cpu->as = &address_space_memory;
        restricted_state_hide(cpu);
    }
}

static DeviceListener cpu_listener = {
    .realize = cpu_realized,
};

void restricted_cpu_view_init(RestrictedMemory *rm)
{
    device_listener_register(&cpu_listener);
    memory_region_init(&rm->cpu_root, OBJECT(rm), "restricted-cpu",
                       UINT64_MAX);
    memory_region_init_alias(&rm->cpu_system, OBJECT(rm), "restricted-system",
                             get_system_memory(), 0, RESTRICTED_PRIVATE_VIEW);
    memory_region_add_subregion_overlap(&rm->cpu_root, 0, &rm->cpu_system, 0);
}

void restricted_cpu_view_machine_done(RestrictedMemory *rm)
{
    memory_region_transaction_begin();
    restricted_map_slots(rm, &rm->cpu_root,
                         MEMORY_REGION(&rm->cpu_guard.iommu), 0,
                         "restricted-cpu-guarded");
    restricted_map_slots(rm, &rm->cpu_root, &rm->private_ram,
                         RESTRICTED_PRIVATE_VIEW, "restricted-private-view");
    restricted_map_slots(rm, &rm->cpu_root, restricted_shared_ram(rm),
                         RESTRICTED_SHARED_VIEW, "restricted-shared-view");
    memory_region_transaction_commit();
}
