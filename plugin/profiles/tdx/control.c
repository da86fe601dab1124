/*
 * TDX: writes of control registers, as far as the TDX module does not let them
 * through.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * control-registers.toml has the data. What counts is the change: a vCPU that
 * SeaBIOS has started lacks bits that are fixed in a TD.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/profiles/tdx/ve.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/tdx-tables.inc"

#define REX_B   1
#define REX_R   4

/* MOV to a control register */
typedef struct ControlWrite {
    unsigned reg, gpr;
    uint64_t old, new;
} ControlWrite;

/* False: another instruction (CLTS, LMSW), which changes the guest's own bits. */
static bool decode(CPUX86State *env, uint64_t at, uintptr_t ra,
                   ControlWrite *write)
{
    uint8_t rex = 0, modrm;

    at += tdx_opcode_offset(env, at, &rex, ra);
    if (cpu_ldub_data_ra(env, at + 1, ra) != 0x22) {
        return false;
    }
    modrm = cpu_ldub_data_ra(env, at + 2, ra);
    write->reg = extract32(modrm, 3, 3) | (rex & REX_R ? 8 : 0);
    write->gpr = extract32(modrm, 0, 3) | (rex & REX_B ? 8 : 0);
    write->new = env->regs[write->gpr];
    if (!(env->hflags & HF_CS64_MASK)) {
        write->new = (uint32_t)write->new;
    }
    return write->reg == 0 || write->reg == 4;
}

/* What the CPU itself refuses comes first. */
static bool is_impossible(CPUX86State *env, const ControlWrite *write)
{
    if (write->reg == 4) {
        /* A TD's CPU has VMX and SMX. */
        return write->new & cr4_reserved_bits(env)
               & ~(uint64_t)(CR4_VMXE_MASK | CR4_SMXE_MASK);
    }
    return (write->new & CR0_PG_MASK && !(write->new & CR0_PE_MASK))
           || (write->new & CR0_NW_MASK && !(write->new & CR0_CD_MASK));
}

/* The strictest rule that the change of a bit breaks, TABLE_OWNED if none */
static uint8_t rule(const CPUX86State *env, const ControlWrite *write)
{
    uint8_t table_reg = write->reg ? TABLE_CR4 : TABLE_CR0;
    uint8_t strictest = TABLE_OWNED;

    for (size_t i = 0; i < ARRAY_SIZE(tdx_control_bit_rows); i++) {
        const TableControlBit *row = &tdx_control_bit_rows[i];
        uint64_t bits = MAKE_64BIT_MASK(row->first, row->last - row->first + 1);
        uint8_t set = tdx_has(env, row->when) ? row->set : row->otherwise;

        if (row->reg != table_reg) {
            continue;
        }
        if ((set == TABLE_GP && write->new & ~write->old & bits)
            || (row->clear == TABLE_GP && write->old & ~write->new & bits)) {
            return TABLE_GP;
        }
        if ((set == TABLE_EXCEPTION && write->new & ~write->old & bits)
            || (row->clear == TABLE_EXCEPTION
                && write->old & ~write->new & bits)) {
            strictest = TABLE_EXCEPTION;
        }
    }
    return strictest;
}

void tdx_write_control(CPUState *cpu, uint64_t eip, uintptr_t ra)
{
    CPUX86State *env = cpu_env(cpu);
    ControlWrite write;
    TdxVeInfo info = { .reason = TDX_EXIT_CR };

    if (!decode(env, eip, ra, &write)) {
        return;
    }
    write.old = env->cr[write.reg];
    switch (is_impossible(env, &write) ? TABLE_GP : rule(env, &write)) {
    case TABLE_GP:
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    case TABLE_EXCEPTION:
        /* SDM volume 3, "Exit Qualification for Control-Register Accesses" */
        info.qualification = write.reg | write.gpr << 8;
        tdx_raise_trap(cpu, &info, ra);
    default:
        return;
    }
}
