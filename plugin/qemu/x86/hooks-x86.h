/*
 * What target/i386 and hw/i386 ask about restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_HOOKS_X86_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_HOOKS_X86_H

#include "hw/restricted-memory/qemu/hooks-cpu.h"

/* CPUID as the profile wants it; false: the CPU model answers. */
bool restricted_memory_do_cpuid(CPUState *cpu, uint32_t index,
                                uint32_t subindex, uint32_t *eax,
                                uint32_t *ebx, uint32_t *ecx, uint32_t *edx);

static inline bool restricted_memory_cpuid(CPUState *cpu, uint32_t index,
                                           uint32_t subindex, uint32_t *eax,
                                           uint32_t *ebx, uint32_t *ecx,
                                           uint32_t *edx)
{
    return restricted_memory_enabled()
           && restricted_memory_do_cpuid(cpu, index, subindex, eax, ebx, ecx,
                                         edx);
}

/*
 * VMCALL or VMMCALL in the guest: true if the profile answers it. The answer
 * is in the registers before the next guest instruction. vCPU thread.
 */
bool restricted_memory_hypercall(CPUState *cpu, uintptr_t ra);

/* Instructions that only such guests have: see helper_restricted_insn(). */
enum {
    RESTRICTED_TDCALL = 0xcc,
    RESTRICTED_VMGEXIT = 0xd9,
    RESTRICTED_RMPQUERY = 0xfd,
    RESTRICTED_RMPADJUST = 0xfe,
    RESTRICTED_PVALIDATE = 0xff,
};

/*
 * RDMSR or WRMSR, with operands in the registers: true if the profile has
 * executed it. May leave and execute the instruction again. vCPU thread.
 */
bool restricted_memory_do_msr(CPUState *cpu, bool write, uintptr_t ra);

static inline bool restricted_memory_msr(CPUState *cpu, bool write,
                                         uintptr_t ra)
{
    return restricted_memory_enabled()
           && restricted_memory_do_msr(cpu, write, ra);
}

/* Another CPU has started this one, which is at its vector. */
void restricted_memory_do_sipi(CPUState *cpu);

static inline void restricted_memory_sipi(CPUState *cpu)
{
    if (restricted_memory_enabled()) {
        restricted_memory_do_sipi(cpu);
    }
}

/* Properties of sev-common objects that only an emulated guest has. */
void restricted_memory_sev_properties(ObjectClass *oc);

/* The guest's firmware compares its kernel with hashes: do not change it. */
bool restricted_memory_hashes(void);

/* Keep hashes of what -kernel, -initrd and -append have loaded. */
struct SevKernelLoaderContext;
void restricted_memory_hash(const struct SevKernelLoaderContext *context);

#ifdef CONFIG_USER_ONLY
#define restricted_memory_traps() false
#else
/*
 * The profile wants to see all instructions that exit to the host (port I/O,
 * HLT, control registers). Set before the first guest instruction, because it
 * decides how code is translated. Those that a helper executes (CPUID, MSRs),
 * and exceptions, are seen anyway.
 */
extern bool restricted_memory_trapping;

static inline bool restricted_memory_traps(void)
{
    return unlikely(restricted_memory_trapping);
}
#endif

/*
 * Such an instruction: @type is SVM's exit code, @param that of
 * cpu_svm_check_intercept_param(). Returns if the instruction may go on.
 */
void restricted_memory_do_intercept(CPUState *cpu, uint32_t type,
                                    uint64_t param, uintptr_t ra);

static inline void restricted_memory_intercept(CPUState *cpu, uint32_t type,
                                               uint64_t param, uintptr_t ra)
{
    if (restricted_memory_enabled()) {
        restricted_memory_do_intercept(cpu, type, param, ra);
    }
}

/* Port I/O, whether or not the profile wants to see it. vCPU thread. */
void restricted_memory_do_port_io(CPUState *cpu, uint32_t port, bool write,
                                  uintptr_t ra);

static inline void restricted_memory_port_io(CPUState *cpu, uint32_t port,
                                             bool write, uintptr_t ra)
{
    /* As for memory-mapped I/O: a device's access is blamed on guest code. */
    cpu->mem_io_pc = ra;
    if (restricted_memory_enabled()) {
        restricted_memory_do_port_io(cpu, port, write, ra);
    }
}

/* Must a halted CPU continue, although it can take no interrupt? */
bool restricted_memory_has_work(CPUState *cpu);

#endif
