/*
 * x86: what the plugin asks of its CPUs and machines.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/i386/x86.h"
#include "qapi/error.h"
#include "tcg/helper-tcg.h"
#include "tcg/insn-start-words.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/arch.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/efi-stub.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/qemu/x86/pc-hole.h"
#include "hw/restricted-memory/qemu/x86/stack.h"
#include "hw/restricted-memory/profiles/x86.h"

/* As KVM reports a poisoned page: an uncorrected, recoverable data load. */
#define POISON_STATUS (MCI_STATUS_VAL | MCI_STATUS_UC | MCI_STATUS_EN | \
                       MCI_STATUS_MISCV | MCI_STATUS_ADDRV | MCI_STATUS_S | \
                       MCI_STATUS_AR | 0x134)
#define POISON_MISC_PAGE (MCM_ADDR_PHYS << 6 | RMEM_PAGE_BITS)
#define POISON_BANK 9

static void x86_init(RestrictedMemory *rm)
{
    /* This ROM patches Windows guests, and reads RAM without the guard. */
    object_register_sugar_prop("apic-common", "vapic", "off", true);
}

static bool x86_check_machine(Error **errp)
{
    if (object_dynamic_cast(OBJECT(current_machine), TYPE_X86_MACHINE)
        && x86_machine_is_smm_enabled(X86_MACHINE(current_machine))) {
        error_setg(errp, "%s: system management mode would see private "
                   "memory; say -machine smm=off",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    return true;
}

/* What a PC has there changes at run time, in steps of 16 KiB. */
static void x86_find_hole(hwaddr *start, hwaddr *end)
{
    if (object_dynamic_cast(OBJECT(current_machine), TYPE_X86_MACHINE)) {
        *start = PC_HOLE_START;
        *end = PC_HOLE_END;
    }
}

static uint64_t x86_pc(CPUState *cpu)
{
    return cpu_env(cpu)->eip;
}

/* Relative to the page, or to the segment: see x86_restore_state_to_opc(). */
static uint64_t x86_pc_at(CPUState *cpu, uintptr_t ra)
{
    uint64_t data[INSN_START_WORDS];
    CPUX86State *env = cpu_env(cpu);

    if (!cpu_unwind_state_data(cpu, ra, data)) {
        return 0;
    }
    if (cpu->tcg_cflags & CF_PCREL) {
        return (env->eip & TARGET_PAGE_MASK) | data[0];
    }
    return data[0] - env->segs[R_CS].base;
}

/* A triple fault: check_exception() in QEMU keeps the double fault. */
static bool x86_has_crashed(CPUState *cpu)
{
    return cpu_env(cpu)->old_exception == EXCP08_DBLE;
}

static void x86_drop_exception(CPUState *cpu)
{
    cpu_env(cpu)->old_exception = -1;
}

/*
 * A CPU takes one machine check at a time, and none without CR4.MCE: then it
 * shuts down, of which QEMU makes an ordinary reset.
 */
static bool can_take_machine_check(const CPUX86State *env)
{
    return !(env->mcg_status & MCG_STATUS_MCIP) && env->cr[4] & CR4_MCE_MASK;
}

/*
 * QEMU's machine check is an interrupt: another one that is due may come before
 * it. Then the instruction would run again, and touch the page a second time
 * while the first machine check is in progress, which resets the guest.
 */
static bool take_machine_check(CPUState *cpu, hwaddr gpa)
{
    BQL_LOCK_GUARD();
    bool is_due;

    if (!can_take_machine_check(cpu_env(cpu))) {
        RestrictedPlace at = { cpu, x86_pc(cpu) };

        restricted_stop_because(
            RESTRICTED_MEMORY_STOP_REASON_TRIPLE_FAULT, at,
            "a machine check of vCPU %d for the page at 0x%" PRIx64
            ", which it could not take at 0x%" PRIx64,
            cpu->cpu_index, gpa & TARGET_PAGE_MASK, at.pc);
    }
    cpu_x86_inject_mce(NULL, X86_CPU(cpu), POISON_BANK, POISON_STATUS,
                       MCG_STATUS_MCIP | MCG_STATUS_EIPV, gpa,
                       POISON_MISC_PAGE, 0);
    is_due = qatomic_read(&cpu->interrupt_request) & CPU_INTERRUPT_MCE;
    cpu_reset_interrupt(cpu, CPU_INTERRUPT_MCE);
    return is_due;
}

static void x86_machine_check(CPUState *cpu, hwaddr gpa, uintptr_t ra)
{
    if (take_machine_check(cpu, gpa)) {
        x86_drop_exception(cpu);
        raise_exception_ra(cpu_env(cpu), EXCP12_MCHK, ra);
    }
}

/* The first code of a kernel that SeaBIOS starts runs in 32-bit mode. */
static void x86_code(RestrictedMemory *rm, CPUState *cpu, const uint8_t *page)
{
    restricted_stub_code(rm, cpu_env(cpu)->hflags & HF_CS64_MASK, page);
}

static const RestrictedArch x86 = {
    .profiles = restricted_x86_profiles,
    .init = x86_init,
    .check_machine = x86_check_machine,
    .machine_done = restricted_stub_machine_done,
    .find_hole = x86_find_hole,
    .reset = restricted_stub_reset,
    .pc = x86_pc,
    .pc_at = x86_pc_at,
    .has_crashed = x86_has_crashed,
    .stack = restricted_x86_stack,
    .walk = restricted_x86_walk,
    .drop_exception = x86_drop_exception,
    .machine_check = x86_machine_check,
    .code = x86_code,
};

const RestrictedArch *restricted_arch(void)
{
    return &x86;
}
