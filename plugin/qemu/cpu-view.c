/*
 * What guest CPUs see of restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every guest CPU's address space has this root:
 *
 *   0 ...                      system memory: MMIO, ROM, and, over RAM, a
 *                              guard for accesses that bypass the TLB
 *   RESTRICTED_PRIVATE_VIEW    private RAM at its GPA
 *   RESTRICTED_SHARED_VIEW     shared RAM at its GPA
 *
 * A TLB fill of a RAM page is judged once and entered at the address of the
 * view that its state selects. So the check costs nothing on a TLB hit, and
 * the TLB, the TB cache and dirty tracking see two ordinary RAM blocks. RAM
 * that shows through elsewhere (PC: shadow RAM below 1 MiB) has no slot and
 * is reached through the guard in system memory, which asks here as well.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "exec/ramblock.h"
#include "qemu/main-loop.h"
#include "tcg/insn-start-words.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

/* An uncorrected, recoverable data load: as KVM reports a poisoned page. */
#define POISON_STATUS (MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN | \
                       MCI_STATUS_MISCV | MCI_STATUS_ADDRV | MCI_STATUS_S | \
                       MCI_STATUS_AR | 0x134)
#define POISON_MISC_PAGE (MCM_ADDR_PHYS << 6 | RMEM_PAGE_BITS)
#define POISON_BANK 9

/*
 * The guest instruction behind a device access, 0 if nobody knows. x86 keeps
 * its program counter relative to the page, see x86_restore_state_to_opc().
 */
uint64_t restricted_guest_rip(CPUState *cpu)
{
    uint64_t data[TARGET_INSN_START_WORDS];
    CPUX86State *env;

    if (!cpu || !cpu->mem_io_pc
        || !cpu_unwind_state_data(cpu, cpu->mem_io_pc, data)) {
        return 0;
    }
    env = cpu_env(cpu);
    if (cpu->tcg_cflags & CF_PCREL) {
        return (env->eip & TARGET_PAGE_MASK) | data[0];
    }
    return data[0] - env->segs[R_CS].base;
}

static uint64_t fill_rip(const RestrictedFill *fill)
{
    CPUX86State *env = cpu_env(fill->cpu);

    if (!fill->ra) {
        /* Between two blocks of code: to fetch, or to walk in order to. */
        return fill->walk ? env->eip
               : fill->access == MMU_INST_FETCH ? fill->va : 0;
    }
    cpu_restore_state(fill->cpu, fill->ra);
    return env->eip;
}

/*
 * The launch is over when the guest's own kernel runs. No firmware executes
 * in the upper half of the address space, every 64-bit kernel does.
 */
static void fill_phase(RestrictedMemory *rm, const RestrictedFill *fill)
{
    uint64_t phase = qatomic_read(&rm->core.shared->phase);

    if (phase == RMEM_PH_LAUNCH) {
        restricted_phase(rm, RMEM_PH_FIRMWARE);
    }
    if (fill->access != MMU_INST_FETCH) {
        return;
    }
    if (phase < RMEM_PH_KERNEL && (fill->user || (int64_t)fill->va < 0)) {
        restricted_phase(rm, RMEM_PH_KERNEL);
    }
    if (fill->user) {
        restricted_phase(rm, RMEM_PH_USER);
    }
}

static void record_accept(RestrictedMemory *rm, uint64_t page)
{
    RmemRecord rec = {
        .kind = RMEM_K_ACCEPT, .pages = 1,
        .gpa = restricted_offset_to_gpa(rm, page << RMEM_PAGE_BITS),
        .actor = RMEM_A_VCPU, .device = RMEM_NO_DEVICE,
        .from = RMEM_PENDING, .to = RMEM_PRIVATE,
    };

    if (rm->profile->touch_is_fault) {
        rmem_count(&rm->core, RMEM_C_GUEST_FAULTS, 1);
    }
    trace_rmem_page_accept(rec.gpa);
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
    /* The launch has placed it already; its storage comes when it is used. */
    return rmem_is_launch(&rm->core, page)
           && rmem_apply_page(&rm->core, page, RMEM_ACCEPT, &old) == RMEM_OK;
}

RmemState restricted_cpu_touch(RestrictedMemory *rm, uint64_t page)
{
    RmemState state = rmem_state(&rm->core, page);

    if (state == RMEM_PENDING && touch_accepts(rm, page)) {
        uint8_t *ram = memory_region_get_ram_ptr(&rm->private_ram);

        record_accept(rm, page);
        /*
         * An accepted page has storage. The guest is about to bring it in
         * anyway, unless it is only probed for. By a store that changes
         * nothing, as for a load the host looks for neighbours to map, too.
         */
        qatomic_or(ram + (page << RMEM_PAGE_BITS), 0);
    }
    restricted_settle(rm, page);
    return state == RMEM_PENDING ? rmem_state(&rm->core, page) : state;
}

/* A guest touch that the state forbids: journal it and stop the VM or fault. */
void restricted_guest_fault(RestrictedMemory *rm, const RestrictedFill *fill,
                            hwaddr gpa, RmemState state)
{
    RmemRecord rec = {
        .kind = RMEM_K_GUEST_FAULT, .pages = 1, .gpa = gpa,
        .actor = RMEM_A_VCPU, .device = RMEM_NO_DEVICE,
        .from = state, .to = state, .rip = fill_rip(fill),
        .flags = fill->access == MMU_DATA_STORE ? RMEM_F_WRITE : 0,
    };

    rmem_count(&rm->core, RMEM_C_GUEST_FAULTS, 1);
    trace_rmem_guest_fault(rec.gpa, state, rec.rip);
    restricted_record(rm, &rec);
}

static G_NORETURN void fill_poisoned(RestrictedMemory *rm,
                                     const RestrictedFill *fill, hwaddr gpa)
{
    restricted_guest_fault(rm, fill, gpa, RMEM_POISONED);
    {
        /* Dropped before the exit, which does not unwind. */
        BQL_LOCK_GUARD();
        cpu_x86_inject_mce(NULL, X86_CPU(fill->cpu), POISON_BANK,
                           POISON_STATUS, MCG_STATUS_MCIP | MCG_STATUS_EIPV,
                           gpa, POISON_MISC_PAGE, 0);
    }
    cpu_loop_exit_restore(fill->cpu, fill->ra);
}

bool restricted_fill_is_delivery(const RestrictedFill *fill)
{
    return !fill->ra && fill->access != MMU_INST_FETCH;
}

/*
 * EXCP_INTERRUPT leaves cpu_exec() at once. Without it, an exception whose
 * delivery has faulted would be delivered again and again, and nothing that
 * waits for this CPU would happen. The instruction will raise it anew.
 */
void restricted_fill_again(const RestrictedFill *fill)
{
    fill->cpu->exception_index = EXCP_INTERRUPT;
    cpu_env(fill->cpu)->old_exception = -1;
    cpu_loop_exit_restore(fill->cpu, fill->ra);
}

void restricted_fill_stop(const RestrictedFill *fill)
{
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
    default:
        return false;
    }
}

/* Code is fetched: is it a kernel's? Only a page with storage has content. */
static void fill_fetch(RestrictedMemory *rm, const RestrictedFill *fill,
                       uint64_t page, RmemState state)
{
    MemoryRegion *ram = state == RMEM_SHARED ? restricted_shared_ram(rm)
                                             : &rm->private_ram;

    if (state == RMEM_SHARED || state == RMEM_PRIVATE) {
        restricted_stub_fetch(rm, fill->cpu,
                              (uint8_t *)memory_region_get_ram_ptr(ram)
                              + (page << RMEM_PAGE_BITS));
    }
}

/* A page of RAM: the address of the view where its data is. */
static hwaddr fill_ram(RestrictedMemory *rm, const RestrictedFill *fill,
                       RestrictedAlias alias, uint64_t page)
{
    RmemState state;

    if (unlikely(rm->pending == RESTRICTED_MEMORY_PENDING_STOP)
        && rmem_state(&rm->core, page) == RMEM_PENDING) {
        restricted_guest_fault(rm, fill, alias.gpa, RMEM_PENDING);
        restricted_fill_stop(fill);
    }
    state = restricted_cpu_touch(rm, page);
    if (state == RMEM_POISONED) {
        fill_poisoned(rm, fill, alias.gpa);
    }
    if (unlikely(fill_is_astray(alias.want, state))) {
        rm->profile->fault(rm, fill, alias, state);
    }
    if (unlikely(qatomic_read(&rm->stub_awaited))
        && fill->access == MMU_INST_FETCH) {
        fill_fetch(rm, fill, page, state);
    }
    return alias.gpa + (state == RMEM_SHARED ? RESTRICTED_SHARED_VIEW
                                             : RESTRICTED_PRIVATE_VIEW);
}

hwaddr restricted_memory_fill(const RestrictedFill *fill)
{
    RestrictedMemory *rm = restricted_memory();
    RestrictedAlias alias = { .gpa = fill->pa };
    const RestrictedSlot *slot;

    if (rm->profile->alias) {
        alias = rm->profile->alias(rm, fill);
    }
    if (unlikely(qatomic_read(&rm->core.shared->phase) != RMEM_PH_USER)) {
        fill_phase(rm, fill);
    }
    slot = restricted_slot(rm, alias.gpa);
    if (slot) {
        return fill_ram(rm, fill, alias, (alias.gpa - slot->gpa + slot->offset)
                                         >> RMEM_PAGE_BITS);
    }
    return rm->profile->mmio ? rm->profile->mmio(rm, fill, alias) : alias.gpa;
}

bool restricted_memory_cpuid(CPUState *cpu, uint32_t index, uint32_t subindex,
                             uint32_t regs[4])
{
    const RestrictedProfile *profile = restricted_memory()->profile;

    return profile->cpuid && profile->cpuid(cpu, index, subindex, regs);
}

bool restricted_memory_hypercall(CPUState *cpu)
{
    RestrictedMemory *rm = restricted_memory();

    return rm->profile->hypercall && rm->profile->hypercall(rm, cpu);
}

void restricted_memory_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                                 uintptr_t ra)
{
    restricted_memory()->profile->intercept(cpu, type, param, ra);
}

bool restricted_memory_do_msr(CPUState *cpu, bool write, uintptr_t ra)
{
    const RestrictedProfile *profile = restricted_memory()->profile;
    CPUX86State *env = cpu_env(cpu);
    uint64_t value = deposit64(env->regs[R_EAX], 32, 32, env->regs[R_EDX]);

    if (!profile->msr
        || !profile->msr(cpu, env->regs[R_ECX], write, &value, ra)) {
        return false;
    }
    if (!write) {
        env->regs[R_EAX] = (uint32_t)value;
        env->regs[R_EDX] = value >> 32;
    }
    return true;
}

void restricted_memory_do_sipi(CPUState *cpu)
{
    RestrictedMemory *rm = restricted_memory();

    if (rm->profile->sipi) {
        rm->profile->sipi(rm, cpu);
    }
}

bool restricted_memory_hashes(void)
{
    RestrictedMemory *rm = restricted_memory();

    return rm && rm->profile->hashes && rm->profile->hashes(rm);
}

void restricted_memory_hash(const struct SevKernelLoaderContext *context)
{
    if (restricted_memory_hashes()) {
        restricted_memory()->profile->hash(restricted_memory(), context);
    }
}

/* The flags are in env; the profile may set them. */
void helper_restricted_insn(CPUX86State *env, uint32_t opcode, uint32_t length)
{
    RestrictedMemory *rm = restricted_memory();
    RestrictedInsn insn = {
        .cpu = env_cpu(env), .opcode = opcode, .prefix = opcode >> 8,
        .length = length, .ra = GETPC(),
    };

    CC_SRC = cpu_cc_compute_all(env);
    CC_OP = CC_OP_EFLAGS;
    if (rm->profile->instruction && rm->profile->instruction(rm, &insn)) {
        return;
    }
    if (insn.opcode == RESTRICTED_VMGEXIT) {
        helper_vmmcall(env);        /* its prefix means nothing */
        return;
    }
    raise_exception_ra(env, EXCP06_ILLOP, GETPC());
}

bool restricted_memory_has_work(CPUState *cpu)
{
    const RestrictedProfile *profile = restricted_memory()->profile;

    return profile->has_work && profile->has_work(cpu);
}

MemoryRegion *restricted_memory_cpu_root(void)
{
    return &restricted_memory()->cpu_root;
}

void restricted_cpu_view_init(RestrictedMemory *rm)
{
    memory_region_init(&rm->cpu_root, OBJECT(rm), "restricted-cpu",
                       UINT64_MAX);
    memory_region_init_alias(&rm->cpu_system, OBJECT(rm), "restricted-system",
                             get_system_memory(), 0, RESTRICTED_PRIVATE_VIEW);
    memory_region_add_subregion_overlap(&rm->cpu_root, 0, &rm->cpu_system, 0);
}

void restricted_cpu_view_machine_done(RestrictedMemory *rm)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        /* What the monitor reads by must not reach the views. */
        cpu->as = &address_space_memory;
    }
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
