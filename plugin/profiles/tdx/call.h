/*
 * TDX: one TDCALL, its registers and its status.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_CALL_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_CALL_H

#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/tdx/guest.h"

/* ABI, table "Function Completion Status Codes"; low 32 bits: detail */
#define TDX_SUCCESS                 UINT64_C(0)
#define TDX_OPERAND_INVALID         UINT64_C(0xc000010000000000)
#define TDX_NO_VALID_VE_INFO        UINT64_C(0xc000070400000000)
#define TDX_PAGE_ALREADY_ACCEPTED   UINT64_C(0x00000b0a00000000)
#define TDX_PAGE_SIZE_MISMATCH      UINT64_C(0xc0000b0b00000000)
#define TDX_FIELD_ID_INCORRECT      UINT64_C(0xc0000c0000000000)
#define TDX_FIELD_NOT_WRITABLE      UINT64_C(0xc0000c0100000000)
#define TDX_FIELD_VALUE_NOT_VALID   UINT64_C(0xc0000c0300000000)

/* ABI, "Operand Identifiers": the register at fault */
enum { TDX_RAX = 0, TDX_RCX = 1, TDX_RDX = 2, TDX_R8 = 8 };

/* Queued work finishes the call and writes RAX. */
#define TDX_DEFERRED                UINT64_MAX

/* One TDCALL. */
typedef struct TdxCall {
    TdxGuest *tdx;
    TdxVcpu *vcpu;
    CPUState *cpu;
    CPUX86State *env;
    int length;                     /* of the instruction */
    uintptr_t ra;
} TdxCall;

/* GHCI, "TDG.VP.VMCALL Completion-Status Codes" */
#define TDX_VMCALL_SUCCESS          UINT64_C(0)
#define TDX_VMCALL_RETRY            UINT64_C(1)
#define TDX_VMCALL_INVALID_OPERAND  UINT64_C(0x8000000000000000)
#define TDX_VMCALL_ALIGN_ERROR      UINT64_C(0x8000000000000002)
#define TDX_VMCALL_UNSUPPORTED      UINT64_C(0x8000000000000003)

/*
 * Registers of a VMCALL. A register that RCX does not select reads as 0 and
 * keeps its value.
 */
static inline uint64_t tdx_in(const TdxCall *call, int reg)
{
    return call->env->regs[R_ECX] >> reg & 1 ? call->env->regs[reg] : 0;
}

static inline void tdx_out(const TdxCall *call, int reg, uint64_t value)
{
    if (call->env->regs[R_ECX] >> reg & 1) {
        call->env->regs[reg] = value;
    }
}

bool tdx_instruction(RestrictedMemory *rm, const RestrictedInsn *insn);

#endif
