/*
 * TDX: the virtualization exception, vector 20.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * instructions.toml says what raises it.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "hw/restricted-memory/qemu/arch.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/ve.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/trace.h"
#include "hw/restricted-memory/tdx-tables.inc"

#define VE_VECTOR           20

/* ABI, TDG.VP.CPUIDVE.SET */
#define CPUID_VE_SUPERVISOR 1
#define CPUID_VE_USER       2

/* A #VE becomes a #DF if the guest has not read the last one. */
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
    raise_exception_ra(env, VE_VECTOR, ra);
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

/* Prefixes and REX before the opcode; at most 14, as on hardware. */
unsigned tdx_opcode_offset(CPUX86State *env, uint64_t at, uint8_t *rex,
                           uintptr_t ra)
{
    static const uint8_t prefixes[] = {
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    };
    unsigned n = 0;
    uint8_t byte;

    *rex = 0;
    for (; n < 14; n++) {
        byte = cpu_ldub_data_ra(env, at + n, ra);
        if (env->hflags & HF_CS64_MASK && (byte & 0xf0) == 0x40) {
            *rex = byte;
        } else if (!memchr(prefixes, byte, sizeof(prefixes))) {
            break;
        }
    }
    return n;
}

/* Length of an instruction that traps here, for VE_INFO. */
static uint32_t trap_length(CPUX86State *env, uint32_t reason, uintptr_t ra)
{
    target_ulong pc = ra ? restricted_arch()->pc_at(env_cpu(env), ra)
                         : env->eip;
    target_ulong at = env->segs[R_CS].base + pc;
    uint8_t rex;
    unsigned n = tdx_opcode_offset(env, at, &rex, ra);

    switch (reason) {
    case TDX_EXIT_HLT:
        return n + 1;
    case TDX_EXIT_CPUID:
    case TDX_EXIT_RDMSR:
    case TDX_EXIT_WRMSR:
    case TDX_EXIT_INVD:
    case TDX_EXIT_WBINVD:
        return n + 2;
    case TDX_EXIT_IO:
        /* IN and OUT with an immediate port are 0xe4 to 0xe7. */
        return n + 1 + ((cpu_ldub_data_ra(env, at + n, ra) & 0xfc) == 0xe4);
    default:
        return n + 3;               /* MONITOR, MWAIT, VMCALL, MOV to CR */
    }
}

void tdx_raise_trap(CPUState *cpu, TdxVeInfo *info, uintptr_t ra)
{
    info->length = trap_length(cpu_env(cpu), info->reason, ra);
    tdx_raise_ve(cpu, info, ra);
}

/* SDM volume 3, "Exit Qualification for I/O Instructions", made from SVM's. */
static uint64_t io_qualification(uint64_t param)
{
    uint64_t size = extract64(param, SVM_IOIO_SIZE_SHIFT, 3);

    return (size - 1)
           | (param & SVM_IOIO_TYPE_MASK ? 1 << 3 : 0)
           | (param & SVM_IOIO_STR_MASK ? 1 << 4 : 0)
           | (param & SVM_IOIO_REP_MASK ? 1 << 5 : 0)
           | extract64(param, 16, 16) << 16;
}

/* VMX's exit reasons of SVM's exit codes; MSRs are in msr.c. */
static const struct {
    uint32_t type;
    uint8_t reason;
} reasons[] = {
    { SVM_EXIT_WRITE_CR0, TDX_EXIT_CR },
    { SVM_EXIT_WRITE_CR0 + 4, TDX_EXIT_CR },
    { SVM_EXIT_RDPMC, TDX_EXIT_RDPMC },
    { SVM_EXIT_CPUID, TDX_EXIT_CPUID },
    { SVM_EXIT_INVD, TDX_EXIT_INVD },
    { SVM_EXIT_HLT, TDX_EXIT_HLT },
    { SVM_EXIT_IOIO, TDX_EXIT_IO },
    { SVM_EXIT_WBINVD, TDX_EXIT_WBINVD },
    { SVM_EXIT_MONITOR, TDX_EXIT_MONITOR },
    { SVM_EXIT_MWAIT, TDX_EXIT_MWAIT },
};

static uint8_t find_reason(uint32_t type)
{
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        if (reasons[i].type == type) {
            return reasons[i].reason;
        }
    }
    return 0;
}

static bool cpuid_traps(const TdxGuest *tdx, CPUX86State *env)
{
    const TdxVcpu *vcpu = &tdx->vcpus[env_cpu(env)->cpu_index];
    uint64_t cpuid_ve = env->hflags & HF_CPL_MASK ? CPUID_VE_USER
                                                  : CPUID_VE_SUPERVISOR;

    return vcpu->cpuid_ve & cpuid_ve
           || (tdx->strict && tdx_cpuid_is_for_host(env->regs[R_EAX],
                                                    env->regs[R_ECX]));
}

/* What the table says of an instruction; TABLE_NATIVE: it may go on. */
static uint8_t answer(const TdxGuest *tdx, CPUX86State *env, uint8_t reason)
{
    const TableInstruction *row = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(tdx_instruction_rows) && !row; i++) {
        if (reason >= tdx_instruction_rows[i].first
            && reason <= tdx_instruction_rows[i].last) {
            row = &tdx_instruction_rows[i];
        }
    }
    if (reason == TDX_EXIT_CPUID) {
        return cpuid_traps(tdx, env) ? TABLE_EXCEPTION : TABLE_NATIVE;
    }
    if (!tdx->strict || !row) {
        return TABLE_NATIVE;
    }
    return tdx_has(env, row->when) ? row->answer : row->otherwise;
}

/* Before its first TDCALL, a guest cannot handle a #VE. */
void tdx_intercept(CPUState *cpu, uint32_t type, uint64_t param, uintptr_t ra)
{
    TdxGuest *tdx = tdx_guest();
    CPUX86State *env = cpu_env(cpu);
    TdxVeInfo info = { .reason = find_reason(type) };

    if (!info.reason || !qatomic_read(&tdx->armed)) {
        return;
    }
    switch (answer(tdx, env, info.reason)) {
    case TABLE_TABLE:
        tdx_write_control(cpu, env->segs[R_CS].base
                               + restricted_arch()->pc_at(cpu, ra), ra);
        return;
    case TABLE_GP:
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    case TABLE_EXCEPTION:
        break;
    default:
        return;
    }
    if ((info.reason == TDX_EXIT_INVD || info.reason == TDX_EXIT_WBINVD)
        && env->hflags & HF_CPL_MASK) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
    if (info.reason == TDX_EXIT_IO) {
        info.qualification = io_qualification(param);
    }
    tdx_raise_trap(cpu, &info, ra);
}

bool tdx_exits(CPUState *cpu, uint32_t type, uint64_t param)
{
    const CPUX86State *env = cpu_env(cpu);

    switch (type) {
    case SVM_EXIT_CPUID:
        return tdx_cpuid_is_for_host(env->regs[R_EAX], env->regs[R_ECX]);
    case SVM_EXIT_MSR:
        return tdx_msr_is_for_host(env, env->regs[R_ECX], param);
    default:
        return type == SVM_EXIT_IOIO;
    }
}

/* VMMCALL is an instruction of another vendor's CPU. */
bool tdx_hypercall(RestrictedMemory *rm, CPUState *cpu)
{
    CPUX86State *env = cpu_env(cpu);
    target_ulong at = env->segs[R_CS].base + env->eip;
    TdxVeInfo info = { .reason = TDX_EXIT_VMCALL };
    uint8_t rex;

    at += tdx_opcode_offset(env, at, &rex, 0);
    if (qatomic_read(&tdx_guest()->armed)
        && cpu_ldub_data_ra(env, at + 2, 0) == 0xc1) {
        tdx_raise_trap(cpu, &info, 0);
    }
    return false;
}
