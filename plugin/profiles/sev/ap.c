/*
 * SEV-ES, SEV-SNP: how further CPUs start.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, "SMP Booting". An SEV-ES guest parks its CPUs (AP reset hold), and
 * after a SIPI they continue there. An SNP guest provides a CPU's registers (AP
 * creation). With firmware that does not know SEV, a CPU that was never parked
 * starts at its vector, as on any machine.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "exec/cputlb.h"
#include "hw/core/cpu.h"
#include "hw/i386/apic.h"
#include "hw/i386/apic_internal.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/sev/ap.h"
#include "hw/restricted-memory/profiles/sev/exits.h"
#include "hw/restricted-memory/profiles/sev/vmsa.h"
#include "hw/restricted-memory/trace.h"

enum { AP_ON_INIT, AP_NOW, AP_DESTROY };
enum { JUMP_TABLE_SET, JUMP_TABLE_GET };

#define MSR_AP_HOLD_RESP    0x007
#define VMSA_SIZE           0x670

static CPUState *cpu_by_apic_id(uint32_t id)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (X86_CPU(cpu)->apic_id == id) {
            return cpu;
        }
    }
    return NULL;
}

/* A segment: selector, attributes as in a VMCB, limit, base. */
static void load_segment(CPUX86State *env, int reg, const uint8_t *segment)
{
    uint32_t attr = lduw_le_p(segment + 2);

    cpu_x86_load_seg_cache(env, reg, lduw_le_p(segment),
                           ldq_le_p(segment + 8), ldl_le_p(segment + 4),
                           (attr & 0xff) << 8 | (attr & 0x0f00) << 12);
}

static void load_table(SegmentCache *table, const uint8_t *segment)
{
    table->base = ldq_le_p(segment + 8);
    table->limit = ldl_le_p(segment + 4);
}

static void load_hidden(SegmentCache *segment, const uint8_t *from)
{
    uint32_t attr = lduw_le_p(from + 2);

    load_table(segment, from);
    segment->selector = lduw_le_p(from);
    segment->flags = (attr & 0xff) << 8 | (attr & 0x0f00) << 12;
}

/* RAX at 0x1f8; RCX, RDX, RBX, a hole, RBP, RSI, RDI, R8 to R15 at 0x308 */
static void load_registers(CPUX86State *env, const uint8_t *vmsa)
{
    static const int order[] = {
        R_ECX, R_EDX, R_EBX, -1, R_EBP, R_ESI, R_EDI, R_R8, R_R9, R_R10,
        R_R11, R_R12, R_R13, R_R14, R_R15,
    };

    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        if (order[i] >= 0) {
            env->regs[order[i]] = ldq_le_p(vmsa + VMSA_RCX + 8 * i);
        }
    }
    env->regs[R_EAX] = ldq_le_p(vmsa + VMSA_RAX);
    env->regs[R_ESP] = ldq_le_p(vmsa + VMSA_RSP);
    env->eip = ldq_le_p(vmsa + VMSA_RIP);
    cpu_load_eflags(env, ldq_le_p(vmsa + VMSA_RFLAGS), ~0);
}

static void load_vmsa(CPUX86State *env, const uint8_t *vmsa)
{
    static const struct {
        int reg;
        unsigned offset;
    } segments[] = {
        { R_ES, VMSA_ES }, { R_CS, VMSA_CS }, { R_SS, VMSA_SS },
        { R_DS, VMSA_DS }, { R_FS, VMSA_FS }, { R_GS, VMSA_GS },
    };

    /* The host's SVME, not the guest's. */
    cpu_load_efer(env, ldq_le_p(vmsa + VMSA_EFER) & ~MSR_EFER_SVME);
    cpu_x86_update_cr0(env, ldq_le_p(vmsa + VMSA_CR0));
    cpu_x86_update_cr4(env, ldq_le_p(vmsa + VMSA_CR4));
    cpu_x86_update_cr3(env, ldq_le_p(vmsa + VMSA_CR3));
    for (size_t i = 0; i < ARRAY_SIZE(segments); i++) {
        load_segment(env, segments[i].reg, vmsa + segments[i].offset);
    }
    load_table(&env->gdt, vmsa + VMSA_GDTR);
    load_table(&env->idt, vmsa + VMSA_IDTR);
    load_hidden(&env->ldt, vmsa + VMSA_LDTR);
    load_hidden(&env->tr, vmsa + VMSA_TR);
    env->dr[6] = ldq_le_p(vmsa + VMSA_DR6);
    /*
     * APM, volume 2, appendix B: DR7 is swapped, and without DebugSwap DR0 to DR3
     * are not. So no breakpoint of the guest's is in force, and none is set
     * here: a watchpoint on the stack of an exception ends QEMU's TCG.
     */
    cpu_x86_update_dr7(env, DR7_FIXED_1);
    env->pat = ldq_le_p(vmsa + VMSA_PAT);
    env->xcr0 = ldq_le_p(vmsa + VMSA_XCR0);
    cpu_set_mxcsr(env, ldl_le_p(vmsa + VMSA_MXCSR));
    load_registers(env, vmsa);
}

/* On the CPU that is started, between two instructions. BQL. */
static void start(CPUState *cpu, run_on_cpu_data data)
{
    uint8_t *vmsa = data.host_ptr;

    do_cpu_init(X86_CPU(cpu));
    load_vmsa(cpu_env(cpu), vmsa);
    /* A CPU started by AP creation does not wait for a SIPI. */
    APIC_COMMON(X86_CPU(cpu)->apic_state)->wait_for_sipi = 0;
    sev_vcpu(cpu)->started = true;
    tlb_flush(cpu);
    cpu->halted = 0;
    cpu->exception_index = -1;
    g_free(vmsa);
    qemu_cpu_kick(cpu);
}

static void stop(CPUState *cpu, run_on_cpu_data data)
{
    do_cpu_init(X86_CPU(cpu));
    cpu->halted = 1;
}

/* FW: the checks of VMRUN. */
static bool vmsa_is_valid(SevExit *exit, uint64_t gpa, const uint8_t *vmsa)
{
    return g_hash_table_contains(exit->sev->vmsas,
                                 GUINT_TO_POINTER(gpa >> RMEM_PAGE_BITS))
           && ldq_le_p(vmsa + VMSA_EFER) & MSR_EFER_SVME
           && !vmsa[VMSA_VMPL]
           && ldq_le_p(vmsa + VMSA_FEATURES)
              == sev_status(exit->sev) >> 2;
}

static void create(SevExit *exit, CPUState *target)
{
    uint8_t *vmsa = restricted_ram(exit->sev->rm, exit->info2,
                                   RMEM_PAGE_SIZE, RMEM_PRIVATE);
    bool valid;

    bql_lock();
    valid = vmsa && vmsa_is_valid(exit, exit->info2, vmsa);
    bql_unlock();
    trace_rmem_sev_ap(exit->cpu->cpu_index, target->cpu_index, exit->info1,
                      exit->info2, valid);
    if (!valid) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return;
    }
    async_run_on_cpu(target, start,
                     RUN_ON_CPU_HOST_PTR(g_memdup2(vmsa, VMSA_SIZE)));
}

/* KVM: with a VMSA at a 2 MiB boundary, processors find a large page there. */
static bool may_create(const SevExit *exit)
{
    return sev_ghcb_get(exit, GHCB_RAX) == sev_status(exit->sev) >> 2
           && !(exit->info2 & ~TARGET_PAGE_MASK)
           && exit->info2 & ((RESTRICTED_PAGES_2M << RMEM_PAGE_BITS) - 1);
}

/*
 * INFO1: APIC ID 63:32, request 31:0 (VMPL 19:16, but there is only 0);
 * INFO2: VMSA; RAX: features.
 */
void sev_ap_creation(SevExit *exit)
{
    CPUState *target = cpu_by_apic_id(exit->info1 >> 32);
    uint32_t request = exit->info1;

    if (request != AP_DESTROY && !sev_ghcb_has(exit, GHCB_RAX)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
    } else if (!target || request > AP_DESTROY
               || (request != AP_DESTROY && !may_create(exit))) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
    } else if (request == AP_DESTROY) {
        trace_rmem_sev_ap(exit->cpu->cpu_index, target->cpu_index,
                          exit->info1, exit->info2, true);
        async_run_on_cpu(target, stop, RUN_ON_CPU_NULL);
    } else {
        create(exit, target);
    }
}

/* RAX: in, pages of the buffer at INFO1; out, pages that are needed. */
void sev_ap_ids(SevExit *exit)
{
    uint32_t n = 0, needed;
    uint64_t pages = sev_ghcb_get(exit, GHCB_RAX);
    uint8_t *list;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        n++;
    }
    needed = DIV_ROUND_UP(4 + 4 * n, RMEM_PAGE_SIZE);
    if (!sev_ghcb_has(exit, GHCB_RAX)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return;
    }
    if (pages < needed) {
        sev_ghcb_put(exit, GHCB_RAX, needed);
        return;
    }
    list = restricted_ram(exit->sev->rm, exit->info1, 4 + 4 * n, RMEM_SHARED);
    if (!list || exit->info1 & ~TARGET_PAGE_MASK) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return;
    }
    stl_le_p(list, n);
    CPU_FOREACH(cpu) {
        list += 4;
        stl_le_p(list, X86_CPU(cpu)->apic_id);
    }
}

/* INFO1: 0 to set the table to INFO2, 1 to get it. */
void sev_ap_jump_table(SevExit *exit)
{
    switch (exit->info1) {
    case JUMP_TABLE_SET:
        qatomic_set(&exit->sev->jump_table, exit->info2);
        break;
    case JUMP_TABLE_GET:
        exit->out2 = qatomic_read(&exit->sev->jump_table);
        break;
    default:
        sev_malformed(exit, GHCB_INVALID_INPUT);
    }
}

void sev_ap_park(SevExit *exit)
{
    CPUX86State *env = exit->env;

    env->eip += exit->length;
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    if (!exit->vcpu->parked) {
        exit->vcpu->parked = g_new(CPUX86State, 1);
    }
    memcpy(exit->vcpu->parked, env, sizeof(*env));
    exit->vcpu->parked_by_msr = !exit->ghcb;
    trace_rmem_sev_park(exit->cpu->cpu_index, env->eip);
    exit->cpu->halted = 1;
    exit->cpu->exception_index = EXCP_HLT;
    cpu_loop_exit(exit->cpu);
}

/* Complete the exit that parked the CPU: the answer is not 0. */
static void answer(SevGuest *sev, SevVcpu *vcpu)
{
    uint8_t *ghcb;

    if (vcpu->parked_by_msr) {
        vcpu->ghcb = UINT64_C(1) << 12 | MSR_AP_HOLD_RESP;
        return;
    }
    ghcb = restricted_ram(sev->rm, vcpu->ghcb & TARGET_PAGE_MASK,
                          RMEM_PAGE_SIZE, RMEM_SHARED);
    if (ghcb) {
        SevExit exit = { .ghcb = ghcb };

        sev_ghcb_put(&exit, GHCB_INFO1, GHCB_NO_ACTION);
        sev_ghcb_put(&exit, GHCB_INFO2, 1);
    }
}

/*
 * Neither INIT nor SIPI change the registers of an SEV-ES guest. The first SIPI
 * runs a CPU as it was launched, at an address that the firmware names; the
 * APIC has just started it at the vector.
 */
void sev_sipi(RestrictedMemory *rm, CPUState *cpu)
{
    SevGuest *sev = sev_guest();
    SevVcpu *vcpu = sev_vcpu(cpu);
    CPUX86State *env = cpu_env(cpu);

    if (cpu->halted || env->eip) {
        return;                     /* it was not waiting for a SIPI */
    }
    if (vcpu->parked) {
        answer(sev, vcpu);
        /* The part of the state that a reset clears, and so INIT. */
        memcpy(env, vcpu->parked, offsetof(CPUX86State, end_reset_fields));
        g_clear_pointer(&vcpu->parked, g_free);
        tlb_flush(cpu);
    } else if (!vcpu->started && sev->ap_reset) {
        cpu_x86_load_seg_cache(env, R_CS, 0xf000,
                               sev->ap_reset & 0xffff0000, 0xffff,
                               DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK
                               | DESC_R_MASK | DESC_A_MASK);
        env->eip = sev->ap_reset & 0xffff;
    }
    vcpu->started = true;
}

void sev_ap_reset(SevVcpu *vcpu)
{
    g_clear_pointer(&vcpu->parked, g_free);
    vcpu->started = false;
    vcpu->registered = UINT64_MAX;
    vcpu->ghcb = sev_ghcb_msr_information();
    vcpu->host_msrs = (RestrictedMsrs){ 0 };
}
