/*
 * Arm targets without restricted memory: 32 bits, or no TCG.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's files have their hooks all the same. They are called only with a
 * restricted backend.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/arm/hooks-arm.h"

bool restricted_memory_do_fill(CPUState *cpu, CPUTLBEntryFull *full,
                               struct ARMMMUFaultInfo *fault, vaddr va,
                               MMUAccessType access, bool walk)
{
    g_assert_not_reached();
}

bool restricted_memory_do_call(CPUState *cpu)
{
    g_assert_not_reached();
}

bool restricted_memory_do_calls_by_smc(void)
{
    g_assert_not_reached();
}

int restricted_memory_do_pa_bits(int bits)
{
    g_assert_not_reached();
}
