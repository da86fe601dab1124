/*
 * x86: where a CPU's stack is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The page tables are walked here, because QEMU's walk for debuggers goes
 * through the guard: it would be a host access, and it could accept pages.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/stack.h"
#include "hw/restricted-memory/qemu/x86/stack.h"

/*
 * Kernels run in the upper 2 GiB, modules too: Linux' mm.rst for x86-64. The
 * last 16 MiB hold fixed mappings.
 */
#define CODE_START UINT64_C(0xffffffff80000000)
#define CODE_END   UINT64_C(0xffffffffff000000)

bool restricted_x86_stack(CPUState *cpu, RmemStackInput *in)
{
    const CPUX86State *env = cpu_env(cpu);

    /* Firmware has low addresses, and a program has another stack. */
    if (!(env->hflags & HF_CS64_MASK) || env->hflags & HF_CPL_MASK
        || env->hflags & HF_GUEST_MASK || (int64_t)env->regs[R_ESP] >= 0) {
        return false;
    }
    in->sp = env->regs[R_ESP];
    in->fp = env->regs[R_EBP];
    in->code_start = CODE_START;
    in->code_end = CODE_END;
    return true;
}

/* SDM volume 3, "Paging": 4-level and 5-level paging. */
bool restricted_x86_walk(RestrictedMemory *rm, CPUState *cpu, uint64_t va,
                         hwaddr *pa)
{
    const CPUX86State *env = cpu_env(cpu);
    uint64_t entry = env->cr[3];

    for (int level = env->cr[4] & CR4_LA57_MASK ? 4 : 3; level >= 0; level--) {
        int shift = TARGET_PAGE_BITS + 9 * level;
        const void *at = restricted_peek(rm, cpu,
            (entry & PG_ADDRESS_MASK) + ((va >> shift) & 511) * 8);

        if (!at) {
            return false;
        }
        entry = ldq_le_p(at);
        if (!(entry & PG_PRESENT_MASK)) {
            return false;
        }
        if (level == 0 || (level <= 2 && entry & PG_PSE_MASK)) {
            uint64_t low = (UINT64_C(1) << shift) - 1;

            *pa = (entry & PG_ADDRESS_MASK & ~low) | (va & low);
            return true;
        }
    }
    return false;
}
