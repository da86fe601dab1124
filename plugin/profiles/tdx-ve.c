/*
 * TDX: the virtualization exception, vector 20.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/exec-all.h"
#include "tdx.h"
#include "tcg/helper-tcg.h"
#include "trace.h"

/* ABI, TDG.VP.CPUIDVE.SET */
#define CPUID_VE_SUPERVISOR 1
#define CPUID_VE_USER       2

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
    return TDX_SUCCESS;
}

bool tdx_cpuid_faults(CPUState *cpu)
{
    TdxGuest *tdx = tdx_guest();
    bool user = cpu_env(cpu)->hflags & HF_CPL_MASK;

    return tdx->vcpus[cpu->cpu_index].cpuid_ve
           & (user ? CPUID_VE_USER : CPUID_VE_SUPERVISOR);
}
