/*
 * SEV: RDMSR and WRMSR, by what a host intercepts and what it answers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * msr.toml and host-msr.toml have the data. An MSR that the host intercepts is
 * #VC with vc=strict. Else the host answers at once, and what it refuses is
 * #GP: what Linux makes of a refusal.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "hw/restricted-memory/qemu/x86/for-host.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/profiles/sev/launch.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "hw/restricted-memory/sev-tables.inc"

/* Does the guest's CPUID show a feature? QEMU's CPU has none of the others. */
static bool has(const CPUX86State *env, uint8_t feature)
{
    switch (feature) {
    case TABLE_ALWAYS:
        return true;
    case TABLE_TSC_AUX:
        return env->features[FEAT_8000_0001_EDX] & CPUID_EXT2_RDTSCP
               || env->features[FEAT_7_0_ECX] & CPUID_7_0_ECX_RDPID;
    default:
        return false;
    }
}

bool sev_msr_is_native(const CPUX86State *env, uint32_t index, bool write)
{
    const TableMsr *row = RESTRICTED_ROW(sev_msr_rows, index);

    return row && has(env, row->when)
           && (write ? row->write : row->read) == TABLE_NATIVE;
}

/* KVM does not touch what is in the VMSA. */
bool sev_host_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value)
{
    return !sev_msr_is_native(cpu_env(cpu), index, write)
           && restricted_host_msr(sev_host_msr_rows,
                                  ARRAY_SIZE(sev_host_msr_rows),
                                  &sev_vcpu(cpu)->host_msrs, cpu_env(cpu),
                                  index, write, value);
}

/* No other vCPU runs. */
static void arm(CPUState *cpu, run_on_cpu_data data)
{
    sev_arm(sev_guest(), cpu);
}

static uint64_t read_status(CPUState *cpu, uintptr_t ra)
{
    if (!qatomic_read(&sev_guest()->armed)) {
        /* And then execute this instruction again. */
        async_safe_run_on_cpu(cpu, arm, RUN_ON_CPU_NULL);
        restricted_execute_again(cpu, ra);
    }
    if (sev_guest()->level == SEV_PLAIN) {
        restricted_count_call(sev_guest()->rm, cpu_env(cpu)->eip);
    }
    return sev_status(sev_guest());
}

bool sev_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
             uintptr_t ra)
{
    const SevGuest *sev = sev_guest();
    uint64_t *ghcb = &sev_vcpu(cpu)->ghcb;

    if (index == SEV_MSR_STATUS && !write) {
        *value = read_status(cpu, ra);
        return true;
    }
    if (sev->level == SEV_PLAIN || restricted_runs_for_host()) {
        return false;
    }
    if (index == SEV_MSR_GHCB) {
        *(write ? ghcb : value) = *(write ? value : ghcb);
        return true;
    }
    if (!qatomic_read(&sev->armed)
        || sev_msr_is_native(cpu_env(cpu), index, write)) {
        return false;
    }
    if (sev->strict) {
        sev_raise_vc(cpu, SVM_EXIT_MSR, ra);
    }
    if (!sev_host_msr(cpu, index, write, value)) {
        raise_exception_err_ra(cpu_env(cpu), EXCP0D_GPF, 0, ra);
    }
    return true;
}
