/*
 * x86: where a kernel that does not speak the profile's interface would die.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An emulator traps nothing, so such a kernel boots here. On hardware the first
 * instruction that its host has to answer is an exception, which it does not
 * handle. That instruction is journaled, so that a verdict can name it. One of
 * what unpacks the kernel may come before: it cannot be told from firmware.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "svm.h"
#include "hw/restricted-memory/qemu/arch.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/x86/unaware.h"

/*
 * Where Linux maps UEFI's runtime services, which are the firmware's own code
 * (Documentation/arch/x86/x86_64/mm.rst).
 */
#define RUNTIME_SERVICES_START  UINT64_C(0xffffffef00000000)
#define RUNTIME_SERVICES_END    UINT64_C(0xffffffff00000000)

static bool is_told;                /* atomic */

/*
 * A kernel runs in the upper half of the address space; firmware, and what
 * unpacks a kernel, do not.
 */
bool restricted_is_kernel(uint64_t pc)
{
    return (int64_t)pc < 0 && (pc < RUNTIME_SERVICES_START
                               || pc >= RUNTIME_SERVICES_END);
}

static RmemExit exit_of(uint32_t type)
{
    switch (type) {
    case SVM_EXIT_CPUID:
        return RMEM_X_IDENTIFY;
    case SVM_EXIT_IOIO:
        return RMEM_X_PORT;
    case SVM_EXIT_MSR:
        return RMEM_X_REGISTER;
    default:
        return RMEM_EXITS;
    }
}

static uint64_t number_of(CPUX86State *env, RmemExit exit, uint64_t param)
{
    switch (exit) {
    case RMEM_X_IDENTIFY:
        return (uint32_t)env->regs[R_EAX];
    case RMEM_X_REGISTER:
        return (uint32_t)env->regs[R_ECX];
    default:
        return extract64(param, 16, 16);
    }
}

void restricted_note_exit(const RestrictedX86Ops *ops, CPUState *cpu,
                          uint32_t type, uint64_t param, uintptr_t ra)
{
    RestrictedMemory *rm = restricted_memory();
    RmemExit exit = exit_of(type);
    RmemRecord rec = {
        .kind = RMEM_K_EXIT, .actor = RMEM_A_VCPU,
        .device = RMEM_NO_DEVICE,
    };

    if (exit == RMEM_EXITS || !ops->exits || qatomic_read(&is_told)
        || rmem_phase(&rm->core) < RMEM_PH_KERNEL
        || qatomic_read(&rm->core.shared->counters[RMEM_C_KERNEL_CALLS])) {
        return;
    }
    rec.pc = restricted_arch()->pc_at(cpu, ra);
    rec.gpa = number_of(cpu_env(cpu), exit, param);
    if (exit == RMEM_X_REGISTER) {
        rec.flags = param ? RMEM_F_WRITE : 0;
    } else if (exit == RMEM_X_PORT) {
        rec.flags = param & SVM_IOIO_TYPE_MASK ? 0 : RMEM_F_WRITE;
    }
    rec.flags |= exit << RMEM_F_EXIT_SHIFT;
    if (restricted_is_kernel(rec.pc) && ops->exits(cpu, type, param)
        && !qatomic_xchg(&is_told, true)) {
        restricted_record(rm, &rec);
    }
}
