/*
 * x86: the hooks call the operations of the profile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "svm.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/x86/for-host.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/qemu/x86/unaware.h"

bool restricted_memory_trapping;

static const RestrictedX86Ops *ops(void)
{
    static const RestrictedX86Ops none;

    return restricted_memory()->profile->arch_ops ?: &none;
}

bool restricted_memory_do_cpuid(CPUState *cpu, uint32_t index,
                                uint32_t subindex, uint32_t *eax,
                                uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    uint32_t regs[4];

    if (!ops()->cpuid || !ops()->cpuid(cpu, index, subindex, regs)) {
        return false;
    }
    *eax = regs[R_EAX];
    *ebx = regs[R_EBX];
    *ecx = regs[R_ECX];
    *edx = regs[R_EDX];
    return true;
}

bool restricted_memory_hypercall(CPUState *cpu, uintptr_t ra)
{
    if (!ops()->hypercall) {
        return false;
    }
    restricted_count_exactly(cpu, ra);
    return ops()->hypercall(restricted_memory(), cpu);
}

void restricted_memory_do_intercept(CPUState *cpu, uint32_t type,
                                    uint64_t param, uintptr_t ra)
{
    bool is_exception = type >= SVM_EXIT_EXCP_BASE
                        && type < SVM_EXIT_EXCP_BASE + 32;

    if (restricted_runs_for_host()) {
        if (is_exception) {
            restricted_fault_for_host();
        }
        return;
    }
    if (!is_exception) {
        restricted_count_exactly(cpu, ra);
    }
    restricted_note_exit(ops(), cpu, type, param, ra);
    if (!is_exception && ops()->intercept) {
        ops()->intercept(cpu, type, param, ra);
    }
}

void restricted_memory_do_port_io(CPUState *cpu, uint32_t port, bool write,
                                  uintptr_t ra)
{
    uint64_t param = port << 16 | (write ? 0 : SVM_IOIO_TYPE_MASK);

    if (!restricted_runs_for_host()) {
        restricted_note_exit(ops(), cpu, SVM_EXIT_IOIO, param, ra);
    }
}

bool restricted_memory_do_msr(CPUState *cpu, bool write, uintptr_t ra)
{
    CPUX86State *env = cpu_env(cpu);
    uint64_t value = deposit64(env->regs[R_EAX], 32, 32, env->regs[R_EDX]);

    /* Those of the APIC have its timer, and raise interrupts. */
    restricted_count_exactly(cpu, ra);
    if (!ops()->msr
        || !ops()->msr(cpu, env->regs[R_ECX], write, &value, ra)) {
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
    if (ops()->sipi) {
        ops()->sipi(restricted_memory(), cpu);
    }
}

bool restricted_memory_hashes(void)
{
    RestrictedMemory *rm = restricted_memory();

    return rm && ops()->hashes && ops()->hashes(rm);
}

void restricted_memory_hash(const struct SevKernelLoaderContext *context)
{
    if (restricted_memory_hashes()) {
        ops()->hash(restricted_memory(), context);
    }
}

void restricted_count_call(RestrictedMemory *rm, uint64_t pc)
{
    rmem_count(&rm->core, restricted_is_kernel(pc) ? RMEM_C_KERNEL_CALLS
                                                   : RMEM_C_EARLY_CALLS, 1);
}

/* All flags are in env, so the profile may set them. */
void helper_restricted_insn(CPUX86State *env, uint32_t opcode, uint32_t length)
{
    RestrictedInsn insn = {
        .cpu = env_cpu(env), .opcode = opcode, .prefix = opcode >> 8,
        .length = length, .ra = GETPC(),
    };
    uint64_t pc = env->eip;

    CC_SRC = cpu_cc_compute_all(env);
    CC_OP = CC_OP_EFLAGS;
    if (ops()->instruction
        && ops()->instruction(restricted_memory(), &insn)) {
        restricted_count_call(restricted_memory(), pc);
        return;
    }
    if (insn.opcode == RESTRICTED_VMGEXIT) {
        helper_vmmcall(env);        /* a VMMCALL with a prefix */
        return;
    }
    raise_exception_ra(env, EXCP06_ILLOP, GETPC());
}

bool restricted_memory_has_work(CPUState *cpu)
{
    return ops()->has_work && ops()->has_work(cpu);
}
