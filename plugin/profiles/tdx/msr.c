/*
 * TDX: RDMSR and WRMSR, by the module's table and the host's.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * msr.toml has the data. An MSR that the module leaves to the host is #VE with
 * ve=strict. Else the host answers at once, and what it refuses is #GP: what
 * Linux makes of a refusal.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/qemu/x86/for-host.h"
#include "hw/restricted-memory/profiles/tdx/ve.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/tdx-tables.inc"

#define MISC_ENABLE_PERFMON     (1 << 7)
#define MISC_ENABLE_NO_PEBS     (1 << 12)
#define DEBUGCTL_RESERVED       0xffffffffffff0038ull
#define DEBUGCTL_TR             (1 << 6)
#define DEBUGCTL_BTS            (1 << 7)

uint64_t tdx_arch_capabilities(void)
{
    uint64_t value = 0;

    for (size_t i = 0; i < ARRAY_SIZE(tdx_arch_capability_rows); i++) {
        const TableArchCapability *row = &tdx_arch_capability_rows[i];

        if (row->shown == TABLE_YES) {
            value |= MAKE_64BIT_MASK(row->first, row->last - row->first + 1);
        }
    }
    return value;
}

bool tdx_host_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value)
{
    return restricted_host_msr(tdx_host_msr_rows,
                               ARRAY_SIZE(tdx_host_msr_rows),
                               &tdx_guest()->vcpus[cpu->cpu_index].host_msrs,
                               cpu_env(cpu), index, write, value);
}

static uint8_t rule(const CPUX86State *env, const TableMsr *row, bool write)
{
    if (!row) {
        return TABLE_EXCEPTION;
    }
    if (!tdx_has(env, row->when)) {
        return row->otherwise;
    }
    return write ? row->write : row->read;
}

bool tdx_msr_is_for_host(const CPUX86State *env, uint32_t index, bool write)
{
    return rule(env, RESTRICTED_ROW(tdx_msr_rows, index), write)
           == TABLE_EXCEPTION;
}

/* Only SCE may change. A CPU that has not come so far is none of a TD's. */
static uint8_t efer_rule(const CPUX86State *env, uint64_t value)
{
    uint64_t changed = (value ^ env->efer) & ~(uint64_t)MSR_EFER_LMA;

    return !(env->efer & MSR_EFER_LMA) || !(changed & ~MSR_EFER_SCE)
           ? TABLE_NATIVE : TABLE_EXCEPTION;
}

static uint8_t debugctl_rule(uint64_t value)
{
    if (value & DEBUGCTL_RESERVED) {
        return TABLE_GP;
    }
    return value & DEBUGCTL_TR && !(value & DEBUGCTL_BTS) ? TABLE_EXCEPTION
                                                          : TABLE_NATIVE;
}

/* MSRs with a handler: what their rows come down to, and the value if read. */
static uint8_t handle(CPUX86State *env, uint8_t handler, bool write,
                      uint64_t *value)
{
    switch (handler) {
    case TABLE_TSC:
        *value = cpu_get_tsc(env) + env->tsc_offset;
        return TABLE_VALUE;
    case TABLE_ARCH_CAPABILITIES:
        *value = env->features[FEAT_ARCH_CAPABILITIES];
        return TABLE_VALUE;
    case TABLE_MISC_ENABLE:
        *value = (env->msr_ia32_misc_enable & ~MISC_ENABLE_PERFMON)
                 | MISC_ENABLE_NO_PEBS;
        return TABLE_VALUE;
    case TABLE_PERF_CAPABILITIES:
        *value = 0;
        return write ? TABLE_GP : TABLE_VALUE;
    case TABLE_DEBUGCTL:
        return write ? debugctl_rule(*value) : TABLE_NATIVE;
    case TABLE_EFER:
        return efer_rule(env, *value);
    case TABLE_XSS:
        return *value ? TABLE_GP : TABLE_NATIVE;
    default:
        return handler;
    }
}

static bool left_to_host(CPUState *cpu, uint32_t index, bool write,
                         uint64_t *value, uintptr_t ra)
{
    TdxVeInfo info = { .reason = write ? TDX_EXIT_WRMSR : TDX_EXIT_RDMSR };

    if (tdx_guest()->strict) {
        tdx_raise_trap(cpu, &info, ra);
    }
    return tdx_host_msr(cpu, index, write, value);
}

bool tdx_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
             uintptr_t ra)
{
    CPUX86State *env = cpu_env(cpu);
    const TableMsr *row = RESTRICTED_ROW(tdx_msr_rows, index);
    uint8_t answer;

    if (!qatomic_read(&tdx_guest()->armed) || restricted_runs_for_host()) {
        /* The firmware before the TD, or the host: KVM's MSR is the module's. */
        return index == MSR_IA32_ARCH_CAPABILITIES && !write
               && handle(env, TABLE_ARCH_CAPABILITIES, write, value);
    }
    answer = handle(env, rule(env, row, write), write, value);
    if (answer == TABLE_NATIVE) {
        return false;
    }
    if (answer == TABLE_VALUE) {
        *value = row->read == TABLE_VALUE ? row->value : *value;
        return true;
    }
    if (answer != TABLE_EXCEPTION
        || !left_to_host(cpu, index, write, value, ra)) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
    return true;
}
