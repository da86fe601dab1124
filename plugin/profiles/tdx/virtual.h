/*
 * TDX: what the TDX module makes of a CPU. The tables are TOML documents in
 * this folder.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_VIRTUAL_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_VIRTUAL_H

#include "hw/restricted-memory/profiles/tdx/guest.h"

/* cpuid.c */
uint64_t tdx_xfam(const CPUX86State *env);
/* Does the TD have a feature: TABLE_ALWAYS, TABLE_PERFMON, ...? */
bool tdx_has(const CPUX86State *env, uint8_t feature);
/* As in RestrictedX86Ops. */
bool tdx_cpuid(CPUState *cpu, uint32_t index, uint32_t subindex,
               uint32_t regs[4]);
/* Is the leaf left to the host? */
bool tdx_cpuid_is_for_host(uint32_t leaf, uint32_t subleaf);

/* msr.c */
bool tdx_msr_is_for_host(const CPUX86State *env, uint32_t index, bool write);
bool tdx_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
             uintptr_t ra);
/*
 * RDCL_NO and similar bits: without them a kernel protects itself against flaws
 * that the host's CPU may have. RDCL_NO avoids page table isolation, which costs
 * a TLB flush per system call here.
 */
uint64_t tdx_arch_capabilities(void);
/* For TDVMCALL; false: the host refuses. */
bool tdx_host_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value);

/* control.c: MOV to a control register at the guest's @eip, before it runs */
void tdx_write_control(CPUState *cpu, uint64_t eip, uintptr_t ra);
/* ve.c */
unsigned tdx_opcode_offset(CPUX86State *env, uint64_t at, uint8_t *rex,
                           uintptr_t ra);

#endif
