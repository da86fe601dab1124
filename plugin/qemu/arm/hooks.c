/*
 * Arm: the hooks call the operations of the profile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "internals.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/arm/hooks-arm.h"
#include "hw/restricted-memory/qemu/arm/ops.h"

static const RestrictedArmOps *ops(void)
{
    static const RestrictedArmOps none;

    return restricted_memory()->profile->arch_ops ?: &none;
}

/*
 * A denied access is a synchronous external abort, as memory that answers with
 * an error is. In a page-table walk QEMU adds the level (target/arm/ptw.c).
 */
bool restricted_memory_do_fill(CPUState *cpu, CPUTLBEntryFull *full,
                               ARMMMUFaultInfo *fault, vaddr va,
                               MMUAccessType access, bool walk)
{
    int prot = full->prot;
    RestrictedFill fill = {
        .cpu = cpu, .va = va, .pa = full->phys_addr & TARGET_PAGE_MASK,
        .access = access, .user = arm_current_el(cpu_env(cpu)) == 0,
        .ra = cpu->mem_io_pc, .walk = walk, .prot = &prot,
    };
    hwaddr address = restricted_memory_fill(&fill);

    if (address == RESTRICTED_NOWHERE) {
        fault->type = walk ? ARMFault_SyncExternalOnWalk
                           : ARMFault_SyncExternal;
        fault->ea = true;
        return false;
    }
    full->phys_addr = address | (full->phys_addr & ~TARGET_PAGE_MASK);
    full->prot = prot;
    return true;
}

bool restricted_memory_do_call(CPUState *cpu)
{
    return ops()->call && ops()->call(restricted_memory(), cpu);
}

bool restricted_memory_do_calls_by_smc(void)
{
    return ops()->calls_by_smc;
}

int restricted_memory_do_pa_bits(int bits)
{
    return ops()->pa_bits ? ops()->pa_bits(restricted_memory(), bits) : bits;
}

/*
 * A kernel runs in the upper half of the address space. Firmware does not, nor
 * do its runtime services: Linux maps them in the lower half
 * (arch/arm64/include/asm/efi.h).
 */
void restricted_count_call(RestrictedMemory *rm, uint64_t pc)
{
    rmem_count(&rm->core, (int64_t)pc < 0 ? RMEM_C_KERNEL_CALLS
                                          : RMEM_C_EARLY_CALLS, 1);
}
