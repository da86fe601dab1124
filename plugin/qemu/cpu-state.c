/*
 * CPU state: whose it is, and who may look at it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where a profile encrypts it (RestrictedProfile.hides_state), the host may
 * see neither registers nor what the CPU does: commands of the monitor are
 * refused (commands.c), gdb's server does not start, and below both are the
 * functions of a CPU's class that show its state, which whatever was
 * overlooked has to call. Other guests have their registers in the host's
 * memory, and the host may see them.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/qemu-print.h"
#include "hw/core/cpu.h"
#include "hw/core/sysemu-cpu-ops.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/refuse.h"

/* What the class of this machine's CPUs had before. */
static const SysemuCPUOps *stock_ops;

static __thread bool translates;

bool restricted_state_translates(void)
{
    return translates;
}

bool restricted_state_is_hidden(const RestrictedMemory *rm)
{
    return rm->profile->hides_state && !rm->debuggable;
}

bool restricted_memory_refuse_state(const char *what, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();

    if (!rm || !restricted_state_is_hidden(rm)) {
        return false;
    }
    restricted_refuse(rm, RESTRICTED_CPU_STATE, what, errp);
    return true;
}

static void hidden_dump(CPUState *cpu, FILE *file, int flags)
{
    restricted_memory_refuse_state("registers", NULL);
    qemu_fprintf(file, "The state of this CPU is the guest's.\n");
}

static bool may_translate(void)
{
    return current_cpu || translates
           || !restricted_memory_refuse_state("address translation", NULL);
}

/*
 * Without paging any address translates to itself, also one of the views of
 * RAM (cpu-view.h), which are above all guest addresses.
 */
#if QEMU_IS_AT_LEAST(11, 0)

static bool hidden_translate(CPUState *cpu, vaddr va,
                             TranslateForDebugResult *result)
{
    return may_translate()
           && stock_ops->translate_for_debug(cpu, va, result)
           && result->physaddr < RESTRICTED_PRIVATE_VIEW;
}

#else

static hwaddr hidden_translate(CPUState *cpu, vaddr va, MemTxAttrs *attrs)
{
    hwaddr page = -1;

    *attrs = MEMTXATTRS_UNSPECIFIED;
    if (may_translate()) {
        page = stock_ops->get_phys_page_attrs_debug(cpu, va, attrs);
    }
    return page < RESTRICTED_PRIVATE_VIEW ? page : -1;
}

#endif

void restricted_state_hide(CPUState *cpu)
{
    static SysemuCPUOps ops;
    CPUClass *class = CPU_GET_CLASS(cpu);

    if (stock_ops) {
        return;     /* a machine's CPUs are of one class */
    }
    stock_ops = class->sysemu_ops;
    ops = *stock_ops;
    ops.compat_translate_op = hidden_translate;
    class->sysemu_ops = &ops;
    if (restricted_state_is_hidden(restricted_memory())) {
        class->dump_state = hidden_dump;
    }
}

bool restricted_state_translate(CPUState *cpu, vaddr va, hwaddr *gpa)
{
    TranslateForDebugResult result = { 0 };
    bool found;

    translates = true;
    found = cpu_translate_for_debug(cpu, va, &result);
    translates = false;
    *gpa = result.physaddr;
    return found;
}
