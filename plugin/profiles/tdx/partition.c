/*
 * TDX: the leaves for TD partitioning, in a TD that has no L2 VMs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * ABI, TDG.MEM.PAGE.ATTR.RD/WR, TDG.VP.ENTER, TDG.VP.INVEPT, TDG.VP.INVGLA.
 * A TD without L2 VMs has no attributes to set or read, but it can ask at which
 * level a page is mapped and whether it is pending.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"

#define MAPPING_PENDING     (UINT64_C(1) << 62)
#define MAPPING_RESERVED    UINT64_C(0xfff0000000000ff8)
#define GPA_FIELD           UINT64_C(0x000ffffffffff000)
#define REG_LIST_ALIGN      256

static uint64_t clear(TdxCall *call, uint64_t status)
{
    call->env->regs[R_ECX] = 0;
    call->env->regs[R_EDX] = 0;
    return status;
}

static uint64_t align_down(uint64_t gpa, int level)
{
    return gpa & ~((UINT64_C(1) << TDX_LEVEL_BITS(level)) - 1);
}

/* Is @rcx a private GPA, aligned to its level? */
static bool is_mapping(TdxCall *call, uint64_t rcx)
{
    uint64_t gpa = rcx & GPA_FIELD;
    int level = rcx & 7;

    return level <= TDX_1G && !(rcx & MAPPING_RESERVED)
           && gpa == align_down(gpa, level) && gpa < tdx_shared_bit(call->tdx);
}

/* In: RCX GPA. Out: RCX GPA, level, pending; RDX attributes: none. */
uint64_t tdx_page_attr_rd(TdxCall *call)
{
    uint64_t gpa = call->env->regs[R_ECX];
    TdxMapping mapping;

    if (gpa >= tdx_shared_bit(call->tdx)) {
        return clear(call, TDX_OPERAND_INVALID | TDX_RCX);
    }
    mapping = tdx_mapping(call, gpa);
    call->env->regs[R_ECX] = align_down(gpa, mapping.level) | mapping.level
                             | (mapping.pending ? MAPPING_PENDING : 0);
    call->env->regs[R_EDX] = 0;
    return TDX_SUCCESS;
}

/* In: RCX GPA and level, RDX attributes, R8 mask and flags, by VM. */
uint64_t tdx_page_attr_wr(TdxCall *call)
{
    uint64_t rcx = call->env->regs[R_ECX];
    TdxMapping mapping;

    /* In this order: for each VM the attributes, then the flags. */
    for (int vm = 0; vm < 4; vm++) {
        if (extract64(call->env->regs[R_EDX], 16 * vm, 16)) {
            return clear(call, TDX_OPERAND_INVALID | TDX_RDX);
        }
        if (extract64(call->env->regs[R_R8], 16 * vm, 16)) {
            return clear(call, TDX_OPERAND_INVALID | TDX_R8);
        }
    }
    if (!is_mapping(call, rcx)) {
        return clear(call, TDX_OPERAND_INVALID | TDX_RCX);
    }
    mapping = tdx_mapping(call, rcx & GPA_FIELD);
    if ((rcx & 7) != mapping.level) {
        return clear(call, TDX_PAGE_SIZE_MISMATCH | mapping.level);
    }
    call->env->regs[R_ECX] = rcx | (mapping.pending ? MAPPING_PENDING : 0);
    call->env->regs[R_EDX] = 0;
    return TDX_SUCCESS;
}

/* In: RCX VM, RDX its registers. There is no such VM. */
uint64_t tdx_vp_enter(TdxCall *call)
{
    uint64_t list = call->env->regs[R_EDX];

    if (list & (REG_LIST_ALIGN - 1) || list >= tdx_shared_bit(call->tdx)) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    return TDX_OPERAND_INVALID | TDX_RCX;
}

/* In: RCX a bit for each VM. No VM is allowed. */
uint64_t tdx_vp_invept(TdxCall *call)
{
    return call->env->regs[R_ECX] ? TDX_OPERAND_INVALID | TDX_RCX
                                  : TDX_SUCCESS;
}

/* In: RCX VM. There is no such VM. */
uint64_t tdx_vp_invgla(TdxCall *call)
{
    return TDX_OPERAND_INVALID | TDX_RCX;
}
