/*
 * SEV-ES, SEV-SNP: the VMM communication exception, vector 29.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 2, 15.35.5: the error code is the exit code of SVM. Nothing
 * here needs one but an unvalidated page; vc=strict raises all the others
 * too, so that a guest's handlers run.
 */

#include "qemu/osdep.h"
#include "exec/exec-all.h"
#include "sev.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "trace.h"

void sev_raise_vc(CPUState *cpu, uint64_t error, uintptr_t ra)
{
    trace_rmem_sev_vc(cpu->cpu_index, error);
    raise_exception_err_ra(cpu_env(cpu), SEV_EXCP_VC, error, ra);
}

/*
 * MSRs that are in the VMSA, or that no host intercepts (KVM,
 * svm_direct_access_msrs and sev_es_init_vmcb()).
 */
static bool msr_is_native(uint32_t index)
{
    switch (index) {
    case SEV_MSR_GHCB:
    case SEV_MSR_STATUS:
    case MSR_EFER:
    case MSR_STAR:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FMASK:
    case MSR_FSBASE:
    case MSR_GSBASE:
    case MSR_KERNELGSBASE:
    case MSR_IA32_SYSENTER_CS:
    case MSR_IA32_SYSENTER_ESP:
    case MSR_IA32_SYSENTER_EIP:
    case MSR_IA32_SPEC_CTRL:
    case MSR_IA32_PRED_CMD:
    case MSR_PAT:
    case MSR_IA32_XSS:
    case MSR_TSC_AUX:
        return true;
    default:
        return false;
    }
}

void sev_intercept(CPUState *cpu, uint32_t type, uint64_t param, uintptr_t ra)
{
    const SevGuest *sev = sev_guest();

    if (!sev->strict || !qatomic_read(&sev->armed)
        || sev_vcpu(cpu)->by_host) {
        return;
    }
    switch (type) {
    case SVM_EXIT_MSR:
        if (msr_is_native(cpu_env(cpu)->regs[R_ECX])) {
            return;
        }
        sev_raise_vc(cpu, type, ra);
    case SVM_EXIT_CPUID:
        /*
         * Linux insists that an SNP guest has XSAVEC, which TCG has not: it
         * would terminate itself over leaf 0xd.
         */
        if ((uint32_t)cpu_env(cpu)->regs[R_EAX] == 0xd) {
            return;
        }
        /* fall through */
    case SVM_EXIT_IOIO:
    case SVM_EXIT_MONITOR:
    case SVM_EXIT_MWAIT:
        sev_raise_vc(cpu, type, ra);
    default:
        return;                     /* HLT ends in the host without #VC */
    }
}

/* MMIO is without the C-bit; a nested page fault the guest is to handle. */
hwaddr sev_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias)
{
    const uint64_t hole_start = 0xa0000, hole_end = 0x100000;
    bool hole = alias.gpa >= hole_start && alias.gpa < hole_end;

    if (sev_guest()->strict && alias.want == RESTRICTED_SHARED
        && !fill->walk && !hole) {
        sev_raise_vc(fill->cpu, SVM_EXIT_NPF, fill->ra);
    }
    return alias.gpa;
}
