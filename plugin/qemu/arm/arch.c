/*
 * Arm: what the plugin asks of its CPUs and machines.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "internals.h"
#include "qapi/error.h"
#include "tcg/insn-start-words.h"
#include "hw/arm/virt.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/arch.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/efi-stub.h"
#include "hw/restricted-memory/qemu/arm/ops.h"
#include "hw/restricted-memory/profiles/arm.h"

/* Options of -machine virt that give the guest another way to memory. */
static const struct {
    const char *name, *reason;
} refused_options[] = {
    { "secure", "the secure world would have a view of memory of its own" },
    { "virtualization", "a hypervisor in the guest is not emulated beside it" },
    { "mte", "the tags of memory would be in no file" },
};

static bool arm_check_machine(Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused_options); i++) {
        if (object_property_get_bool(OBJECT(current_machine),
                                     refused_options[i].name, NULL)) {
            error_setg(errp, "%s: %s; say -machine %s=off",
                       TYPE_MEMORY_BACKEND_RESTRICTED,
                       refused_options[i].reason, refused_options[i].name);
            return false;
        }
    }
    return true;
}

static void arm_init(RestrictedMemory *rm)
{
}

bool restricted_has_firmware(void)
{
    return object_dynamic_cast(OBJECT(current_machine), TYPE_VIRT_MACHINE)
           && VIRT_MACHINE(current_machine)->bootinfo.firmware_loaded;
}

/* Without firmware, a kernel that is given has no stub: QEMU jumps into it. */
static void arm_machine_done(RestrictedMemory *rm)
{
    if (restricted_has_firmware()) {
        restricted_stub_machine_done(rm);
    }
}

static void arm_code(RestrictedMemory *rm, CPUState *cpu, const uint8_t *page)
{
    restricted_stub_code(rm, true, page);
}

/* All RAM has a fixed place. */
static void arm_find_hole(hwaddr *start, hwaddr *end)
{
}

static uint64_t arm_pc(CPUState *cpu)
{
    CPUARMState *env = cpu_env(cpu);

    return is_a64(env) ? env->pc : env->regs[15];
}

/* Relative to the page, or absolute: see arm_restore_state_to_opc(). */
static uint64_t arm_pc_at(CPUState *cpu, uintptr_t ra)
{
    uint64_t data[INSN_START_WORDS];

    if (!cpu_unwind_state_data(cpu, ra, data)) {
        return 0;
    }
    if (cpu->tcg_cflags & CF_PCREL) {
        return (arm_pc(cpu) & TARGET_PAGE_MASK) | data[0];
    }
    return data[0];
}

/*
 * No windows yet: kernels of Armv8.3 sign the return addresses on their stacks,
 * so those are no addresses of code for core/stacks.c.
 */
static bool arm_stack(CPUState *cpu, RmemStackInput *in)
{
    return false;
}

static bool arm_walk(RestrictedMemory *rm, CPUState *cpu, uint64_t va,
                     hwaddr *pa)
{
    return false;
}

/* The delivery of an exception touches no memory. */
static void arm_drop_exception(CPUState *cpu)
{
}

static const RestrictedArch arm = {
    .profiles = restricted_arm_profiles,
    .fills_fail = true,
    .init = arm_init,
    .check_machine = arm_check_machine,
    .machine_done = arm_machine_done,
    .find_hole = arm_find_hole,
    .reset = restricted_stub_reset,
    .pc = arm_pc,
    .pc_at = arm_pc_at,
    .stack = arm_stack,
    .walk = arm_walk,
    .drop_exception = arm_drop_exception,
    .code = arm_code,
};

const RestrictedArch *restricted_arch(void)
{
    return &arm;
}
