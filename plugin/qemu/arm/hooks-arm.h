/*
 * What target/arm and hw/arm ask about restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Some of these files are compiled once for all targets, so nothing of one
 * target is named here.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_ARM_HOOKS_ARM_H
#define HW_RESTRICTED_MEMORY_QEMU_ARM_HOOKS_ARM_H

#include "hw/restricted-memory/qemu/hooks-cpu.h"

struct ARMMMUFaultInfo;

/*
 * A translation was found and is about to enter a TLB: judge the access, and
 * change @full to where its data is. False: the access fails, and @fault says
 * how. @walk: it is one of a page-table walk, for the access at cpu->mem_io_pc.
 */
bool restricted_memory_do_fill(CPUState *cpu, CPUTLBEntryFull *full,
                               struct ARMMMUFaultInfo *fault, vaddr va,
                               MMUAccessType access, bool walk);

static inline bool restricted_memory_fills(CPUState *cpu, CPUTLBEntryFull *full,
                                           struct ARMMMUFaultInfo *fault,
                                           vaddr va, MMUAccessType access,
                                           bool walk)
{
    return !restricted_memory_enabled()
           || restricted_memory_do_fill(cpu, full, fault, va, access, walk);
}

/*
 * SMC or HVC, whichever the machine has for PSCI: true if the profile has
 * answered it. BQL.
 */
bool restricted_memory_do_call(CPUState *cpu);

static inline bool restricted_memory_call(CPUState *cpu)
{
    return restricted_memory_enabled() && restricted_memory_do_call(cpu);
}

/* Must calls be made by SMC? */
bool restricted_memory_do_calls_by_smc(void);

static inline bool restricted_memory_calls_by_smc(void)
{
    return restricted_memory_enabled() && restricted_memory_do_calls_by_smc();
}

/* How many address bits a machine may use, of the @bits that its CPUs have. */
int restricted_memory_do_pa_bits(int bits);

static inline int restricted_memory_pa_bits(int bits)
{
    return restricted_memory_enabled() ? restricted_memory_do_pa_bits(bits)
                                       : bits;
}

/* The root region of guest CPUs, in place of @system. */
static inline MemoryRegion *restricted_memory_root(MemoryRegion *system)
{
    return restricted_memory_enabled() ? restricted_memory_cpu_root() : system;
}

#endif
