/*
 * SEV-ES, SEV-SNP: the VMM communication exception, vector 29.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_VC_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_VC_H

#include "hw/restricted-memory/profiles/sev/guest.h"

G_NORETURN void sev_raise_vc(CPUState *cpu, uint64_t error, uintptr_t ra);
/* See hooks-x86.h, and RestrictedProfile. */
void sev_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                   uintptr_t ra);
bool sev_exits(CPUState *cpu, uint32_t type, uint64_t param);
bool sev_hypercall(RestrictedMemory *rm, CPUState *cpu);
/* msr.c; for a VMGEXIT, false: the host refuses. */
bool sev_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
             uintptr_t ra);
bool sev_msr_is_native(const CPUX86State *env, uint32_t index, bool write);
bool sev_host_msr(CPUState *cpu, uint32_t index, bool write, uint64_t *value);
hwaddr sev_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias);

#endif
