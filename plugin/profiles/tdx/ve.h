/*
 * TDX: the virtualization exception, vector 20.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_VE_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_VE_H

#include "hw/restricted-memory/qemu/backend.h"

/* ABI, "VE_INFO"; reasons are those of VMX (SDM volume 3, appendix C) */
typedef struct TdxVeInfo {
    uint32_t reason;
    uint64_t qualification;
    uint64_t gla, gpa;
    uint32_t length;                /* of the instruction, 0 if undefined */
} TdxVeInfo;

enum { TDX_EXIT_CPUID = 10, TDX_EXIT_HLT = 12, TDX_EXIT_INVD = 13,
       TDX_EXIT_RDPMC = 15, TDX_EXIT_VMCALL = 18, TDX_EXIT_CR = 28,
       TDX_EXIT_IO = 30, TDX_EXIT_RDMSR = 31, TDX_EXIT_WRMSR = 32,
       TDX_EXIT_MWAIT = 36, TDX_EXIT_MONITOR = 39,
       TDX_EXIT_EPT_VIOLATION = 48, TDX_EXIT_WBINVD = 54 };

G_NORETURN void tdx_raise_ve(CPUState *cpu, const TdxVeInfo *info,
                             uintptr_t ra);
/* The same at the current instruction, whose length is found. @ra may be 0. */
G_NORETURN void tdx_raise_trap(CPUState *cpu, TdxVeInfo *info, uintptr_t ra);
/* As in RestrictedX86Ops. */
void tdx_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                   uintptr_t ra);
bool tdx_exits(CPUState *cpu, uint32_t type, uint64_t param);
bool tdx_hypercall(RestrictedMemory *rm, CPUState *cpu);

#endif
