/*
 * x86 targets without restricted memory: 32 bits, or no TCG.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's files have their hooks all the same.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#ifdef CONFIG_TCG
#include "exec/helper-proto.h"
#endif

bool restricted_memory_trapping;

void restricted_memory_sev_properties(ObjectClass *oc)
{
}

bool restricted_memory_hashes(void)
{
    return false;
}

void restricted_memory_hash(const struct SevKernelLoaderContext *context)
{
}

/* The rest is called only with a restricted backend. */

bool restricted_memory_do_cpuid(CPUState *cpu, uint32_t index,
                                uint32_t subindex, uint32_t *eax,
                                uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    g_assert_not_reached();
}

bool restricted_memory_hypercall(CPUState *cpu, uintptr_t ra)
{
    g_assert_not_reached();
}

bool restricted_memory_do_msr(CPUState *cpu, bool write, uintptr_t ra)
{
    g_assert_not_reached();
}

void restricted_memory_do_sipi(CPUState *cpu)
{
    g_assert_not_reached();
}

void restricted_memory_do_intercept(CPUState *cpu, uint32_t type,
                                    uint64_t param, uintptr_t ra)
{
    g_assert_not_reached();
}

void restricted_memory_do_port_io(CPUState *cpu, uint32_t port, bool write,
                                  uintptr_t ra)
{
    g_assert_not_reached();
}

bool restricted_memory_has_work(CPUState *cpu)
{
    g_assert_not_reached();
}

#ifdef CONFIG_TCG
void helper_restricted_insn(CPUX86State *env, uint32_t opcode, uint32_t length)
{
    g_assert_not_reached();
}
#endif
