/*
 * TDX: the virtualization exception, vector 20.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "tdx.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "trace.h"

/* ABI, TDG.VP.CPUIDVE.SET */
#define CPUID_VE_SUPERVISOR 1
#define CPUID_VE_USER       2

/*
 * Leaves that the TDX module does not virtualize, among those that a kernel
 * reads: thermal, performance monitoring, and what a hypervisor says.
 */
static bool cpuid_is_faulting(uint32_t leaf)
{
    switch (leaf) {
    case 2:
    case 5:
    case 6:
    case 9:
    case 0xa:
    case 0x40000000 ... 0x4fffffff:
        return true;
    default:
        return false;
    }
}

/* A #VE before the last one has been read is a #DF. */
void tdx_raise_ve(CPUState *cpu, const TdxVeInfo *info, uintptr_t ra)
{
    CPUX86State *env = cpu_env(cpu);
    TdxVcpu *vcpu = &tdx_guest()->vcpus[cpu->cpu_index];

    trace_rmem_tdx_ve(cpu->cpu_index, info->reason, info->gpa,
                      vcpu->ve_valid);
    if (vcpu->ve_valid) {
        raise_exception_err_ra(env, EXCP08_DBLE, 0, ra);
    }
    vcpu->ve = *info;
    vcpu->ve_valid = true;
    raise_exception_ra(env, TDX_EXCP_VE, ra);
}

uint64_t tdx_veinfo_get(TdxCall *call)
{
    uint64_t *regs = call->env->regs;
    TdxVeInfo info = call->vcpu->ve_valid ? call->vcpu->ve : (TdxVeInfo){ 0 };

    regs[R_ECX] = info.reason;
    regs[R_EDX] = info.qualification;
    regs[R_R8] = info.gla;
    regs[R_R9] = info.gpa;
    regs[R_R10] = info.length;
    if (!call->vcpu->ve_valid) {
        return TDX_NO_VALID_VE_INFO;
    }
    call->vcpu->ve_valid = false;
    return TDX_SUCCESS;
}

uint64_t tdx_cpuidve_set(TdxCall *call)
{
    uint64_t rcx = call->env->regs[R_ECX];

    if (rcx & ~(uint64_t)(CPUID_VE_SUPERVISOR | CPUID_VE_USER)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    call->vcpu->cpuid_ve = rcx;
    if (rcx) {
        qatomic_set(&restricted_memory_trapping, true);
    }
    return TDX_SUCCESS;
}

/* Prefixes and REX before the opcode; at most 14, as on hardware. */
static unsigned opcode_offset(CPUX86State *env, target_ulong at, uintptr_t ra)
{
    static const uint8_t prefixes[] = {
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    };
    unsigned n = 0;
    uint8_t byte;

    for (; n < 14; n++) {
        byte = cpu_ldub_data_ra(env, at + n, ra);
        if (!memchr(prefixes, byte, sizeof(prefixes))
            && !(env->hflags & HF_CS64_MASK && (byte & 0xf0) == 0x40)) {
            break;
        }
    }
    return n;
}

/* Length of an instruction that traps here: VE_INFO has it. */
static uint32_t trap_length(CPUX86State *env, uint32_t reason, uintptr_t ra)
{
    target_ulong at = env->segs[R_CS].base + env->eip;
    unsigned n = opcode_offset(env, at, ra);

    switch (reason) {
    case TDX_EXIT_HLT:
        return n + 1;
    case TDX_EXIT_CPUID:
    case TDX_EXIT_RDMSR:
    case TDX_EXIT_WRMSR:
        return n + 2;
    case TDX_EXIT_IO:
        /* IN and OUT with an immediate port are 0xe4 to 0xe7. */
        return n + 1 + ((cpu_ldub_data_ra(env, at + n, ra) & 0xfc) == 0xe4);
    default:
        return n + 3;               /* MONITOR, MWAIT */
    }
}

/* SDM volume 3, "Exit Qualification for I/O Instructions", from SVM's. */
static uint64_t io_qualification(uint64_t param)
{
    uint64_t size = extract64(param, SVM_IOIO_SIZE_SHIFT, 3);

    return (size - 1)
           | (param & SVM_IOIO_TYPE_MASK ? 1 << 3 : 0)
           | (param & SVM_IOIO_STR_MASK ? 1 << 4 : 0)
           | (param & SVM_IOIO_REP_MASK ? 1 << 5 : 0)
           | extract64(param, 16, 16) << 16;
}

/*
 * MSRs that a TD has for itself (ABI, "MSR Virtualization"), as far as
 * QEMU's CPU has them; all others are the host's business.
 */
static bool msr_is_native(uint32_t index)
{
    switch (index) {
    case MSR_IA32_TSC:
    case MSR_IA32_APICBASE:
    case MSR_IA32_SPEC_CTRL:
    case MSR_IA32_PRED_CMD:
    case MSR_IA32_ARCH_CAPABILITIES:
    case MSR_IA32_SYSENTER_CS:
    case MSR_IA32_SYSENTER_ESP:
    case MSR_IA32_SYSENTER_EIP:
    case MSR_PAT:
    case MSR_IA32_XSS:
    case MSR_EFER:
    case MSR_STAR:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FMASK:
    case MSR_FSBASE:
    case MSR_GSBASE:
    case MSR_KERNELGSBASE:
    case MSR_TSC_AUX:
    case 0x808:                     /* x2APIC: TPR, PPR, EOI, ... */
    case 0x80a:
    case 0x80b:
    case 0x810 ... 0x827:           /* ... ISR, TMR, IRR, self IPI */
    case 0x83f:
        return true;
    default:
        return false;
    }
}

/* The reason of VMX for an exit of SVM, 0 if it does not trap. */
static uint32_t trap_reason(const TdxGuest *tdx, CPUX86State *env,
                            uint32_t type, uint64_t param)
{
    const TdxVcpu *vcpu = &tdx->vcpus[env_cpu(env)->cpu_index];
    uint64_t cpuid_ve = env->hflags & HF_CPL_MASK ? CPUID_VE_USER
                                                  : CPUID_VE_SUPERVISOR;

    switch (type) {
    case SVM_EXIT_CPUID:
        return vcpu->cpuid_ve & cpuid_ve
               || (tdx->strict && cpuid_is_faulting(env->regs[R_EAX]))
               ? TDX_EXIT_CPUID : 0;
    case SVM_EXIT_IOIO:
        return tdx->strict ? TDX_EXIT_IO : 0;
    case SVM_EXIT_HLT:
        return tdx->strict ? TDX_EXIT_HLT : 0;
    case SVM_EXIT_MSR:
        if (!tdx->strict || msr_is_native(env->regs[R_ECX])) {
            return 0;
        }
        return param ? TDX_EXIT_WRMSR : TDX_EXIT_RDMSR;
    case SVM_EXIT_MONITOR:
        return tdx->strict ? TDX_EXIT_MONITOR : 0;
    case SVM_EXIT_MWAIT:
        return tdx->strict ? TDX_EXIT_MWAIT : 0;
    default:
        return 0;
    }
}

/* Until its first TDCALL, a guest is none that could take a #VE. */
void tdx_intercept(CPUState *cpu, uint32_t type, uint64_t param, uintptr_t ra)
{
    TdxGuest *tdx = tdx_guest();
    CPUX86State *env = cpu_env(cpu);
    TdxVeInfo info = { 0 };

    if (!qatomic_read(&tdx->armed) || tdx->vcpus[cpu->cpu_index].by_host) {
        return;
    }
    info.reason = trap_reason(tdx, env, type, param);
    if (!info.reason) {
        return;
    }
    cpu_restore_state(cpu, ra);
    info.length = trap_length(env, info.reason, ra);
    if (info.reason == TDX_EXIT_IO) {
        info.qualification = io_qualification(param);
    }
    tdx_raise_ve(cpu, &info, ra);
}
