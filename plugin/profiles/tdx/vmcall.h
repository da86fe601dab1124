/*
 * TDX: TDG.VP.VMCALL, requests of a TD to its host.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_VMCALL_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_VMCALL_H

#include "hw/restricted-memory/profiles/tdx/call.h"

/* Must a vCPU that has halted by a call continue? See RestrictedX86Ops. */
bool tdx_has_work(CPUState *cpu);

#endif
