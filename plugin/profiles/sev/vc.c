/*
 * SEV-ES, SEV-SNP: the VMM communication exception, vector 29.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 2, 15.35.5: the error code is SVM's exit code. Only a page that
 * is not validated needs a #VC here; vc=strict raises all the others too, so
 * that a guest's handlers run. intercepts.toml says which.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "hw/restricted-memory/qemu/x86/firmware.h"
#include "hw/restricted-memory/qemu/x86/kvm-hypercall.h"
#include "hw/restricted-memory/qemu/x86/pc-hole.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "hw/restricted-memory/sev-tables.inc"
#include "hw/restricted-memory/trace.h"

#define VC_VECTOR   29

void sev_raise_vc(CPUState *cpu, uint64_t error, uintptr_t ra)
{
    trace_rmem_sev_vc(cpu->cpu_index, error);
    raise_exception_err_ra(cpu_env(cpu), VC_VECTOR, error, ra);
}

static uint8_t answer(const SevGuest *sev, uint32_t code)
{
    const TableExit *row = RESTRICTED_ROW(sev_exit_rows, code);

    if (!row) {
        return TABLE_NATIVE;
    }
    return sev->level == SEV_SNP ? row->snp : row->es;
}

bool sev_exits(CPUState *cpu, uint32_t type, uint64_t param)
{
    const CPUX86State *env = cpu_env(cpu);

    if (type == SVM_EXIT_MSR) {
        return !sev_msr_is_native(env, env->regs[R_ECX], param);
    }
    /* A deviation of the row: leaf 0xd is native. */
    return answer(sev_guest(), type) == TABLE_EXCEPTION
           && !(type == SVM_EXIT_CPUID && (uint32_t)env->regs[R_EAX] == 0xd);
}

void sev_intercept(CPUState *cpu, uint32_t type, uint64_t param, uintptr_t ra)
{
    const SevGuest *sev = sev_guest();
    CPUX86State *env = cpu_env(cpu);

    if (!sev->strict || !qatomic_read(&sev->armed) || type == SVM_EXIT_MSR
        || !sev_exits(cpu, type, param)) {
        return;                     /* MSRs are in msr.c */
    }
    if ((type == SVM_EXIT_INVD || type == SVM_EXIT_WBINVD)
        && env->hflags & HF_CPL_MASK) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
    sev_raise_vc(cpu, type, ra);
}

/* VMMCALL: without a #VC, the host answers it. VMCALL is another vendor's. */
bool sev_hypercall(RestrictedMemory *rm, CPUState *cpu)
{
    const SevGuest *sev = sev_guest();
    CPUX86State *env = cpu_env(cpu);

    if (cpu_ldub_data_ra(env, env->segs[R_CS].base + env->eip + 2, 0) == 0xc1) {
        return false;
    }
    if ((sev->strict || sev->level == SEV_SNP) && qatomic_read(&sev->armed)
        && answer(sev, SVM_EXIT_VMMCALL) == TABLE_EXCEPTION) {
        sev_raise_vc(cpu, SVM_EXIT_VMMCALL, 0);
    }
    return sev->level != SEV_SNP && restricted_kvm_hypercall(rm, cpu);
}

/*
 * MMIO has no C-bit; the guest has to handle its nested page fault. Memory that
 * the host maps has none.
 */
hwaddr sev_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias)
{
    if (sev_guest()->strict && alias.want == RESTRICTED_SHARED
        && !fill->walk && !is_in_pc_hole(alias.gpa)
        && !restricted_is_mapped(alias.gpa,
                                 fill->access == MMU_DATA_STORE)) {
        sev_raise_vc(fill->cpu, SVM_EXIT_NPF, fill->ra);
    }
    return alias.gpa;
}
