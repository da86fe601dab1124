/*
 * What QEMU's own files may ask of restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The patches include this header and no other. Without a restricted
 * backend on the command line every question costs one predictable branch.
 */

#ifndef HW_RESTRICTED_MEMORY_HOOKS_H
#define HW_RESTRICTED_MEMORY_HOOKS_H

#include "exec/hwaddr.h"
#include "exec/vaddr.h"
#include "exec/mmu-access-type.h"
#include "hw/core/cpu.h"

/* Set once, before any CPU is realized, by the first backend. */
extern bool restricted_memory_active;

static inline bool restricted_memory_enabled(void)
{
    return unlikely(restricted_memory_active);
}

/*
 * Root region of the guest CPUs' address space: system memory for whatever
 * is not RAM, and the two views of RAM out of the way of everything else.
 */
MemoryRegion *restricted_memory_cpu_root(void);

/* One guest access that is about to enter a TLB. */
typedef struct RestrictedFill {
    CPUState *cpu;
    vaddr va;
    hwaddr pa;              /* guest physical, before any view is chosen */
    MMUAccessType access;
    bool user;
    uintptr_t ra;           /* host return address, to restore guest state */
    bool walk;              /* of a page table, for a fill that has the same ra */
    int *prot;              /* PAGE_*, of the TLB entry; may be narrowed */
} RestrictedFill;

/*
 * Judge the access and return the address in the CPU root where its data is.
 * Does not return if the access ends in a fault. vCPU thread.
 */
hwaddr restricted_memory_fill(const RestrictedFill *fill);

/*
 * The host wants to read guest memory wholesale, as @what ("dump"). If
 * restricted memory is in the way: journal it, set @errp, return true.
 */
bool restricted_memory_refuse(const char *what, Error **errp);

/* CPUID as the profile wants it; false: not the profile's business. */
bool restricted_memory_cpuid(CPUState *cpu, uint32_t index, uint32_t subindex,
                             uint32_t regs[4]);

/*
 * VMCALL or VMMCALL in the guest: true if the profile answers it. The answer
 * is in the registers before the next guest instruction. vCPU thread.
 */
bool restricted_memory_hypercall(CPUState *cpu);

/* Instructions of such guests only, as in helper_restricted_insn(). */
enum {
    RESTRICTED_TDCALL = 0xcc,
    RESTRICTED_VMGEXIT = 0xd9,
    RESTRICTED_RMPQUERY = 0xfd,
    RESTRICTED_RMPADJUST = 0xfe,
    RESTRICTED_PVALIDATE = 0xff,
};

/*
 * RDMSR or WRMSR, as the registers say: true if the profile has done it. May
 * leave the instruction to be executed again. vCPU thread.
 */
bool restricted_memory_do_msr(CPUState *cpu, bool write, uintptr_t ra);

static inline bool restricted_memory_msr(CPUState *cpu, bool write,
                                         uintptr_t ra)
{
    return restricted_memory_enabled()
           && restricted_memory_do_msr(cpu, write, ra);
}

/* The CPU has been started by another one and is at its vector. */
void restricted_memory_do_sipi(CPUState *cpu);

static inline void restricted_memory_sipi(CPUState *cpu)
{
    if (restricted_memory_enabled()) {
        restricted_memory_do_sipi(cpu);
    }
}

/* Properties of sev-common objects that only an emulated guest has. */
void restricted_memory_sev_properties(ObjectClass *oc);

/* The guest's firmware compares its kernel with hashes: leave it as it is. */
bool restricted_memory_hashes(void);

/* Keep hashes of what -kernel and its friends have loaded. */
struct SevKernelLoaderContext;
void restricted_memory_hash(const struct SevKernelLoaderContext *context);

/*
 * The profile wants to see instructions that leave a guest (port I/O, CPUID,
 * MSRs, HLT). For all but CPUID it is set before the first guest instruction,
 * because it decides how code is translated.
 */
extern bool restricted_memory_trapping;

static inline bool restricted_memory_traps(void)
{
    return unlikely(restricted_memory_trapping);
}

/*
 * Such an instruction: @type is SVM's exit code, @param that of
 * cpu_svm_check_intercept_param(). Returns if the instruction may go on.
 */
void restricted_memory_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                                 uintptr_t ra);

/* Must a halted CPU go on, although no interrupt can be taken? */
bool restricted_memory_has_work(CPUState *cpu);

#endif
