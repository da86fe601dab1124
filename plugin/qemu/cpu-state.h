/*
 * CPU state: whose it is, and who may look at it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_CPU_STATE_H
#define HW_RESTRICTED_MEMORY_QEMU_CPU_STATE_H

#include "hw/restricted-memory/qemu/backend.h"

/* May the host not see registers, single steps and logs of this VM's CPUs? */
bool restricted_state_is_hidden(const RestrictedMemory *rm);

/* A CPU was realized, at start or later: @cpu's class no longer shows it. */
void restricted_state_hide(CPUState *cpu);

/*
 * Translate @va as @cpu would, on behalf of the guest and not of a debugger:
 * nothing is refused or journaled. False: it is not mapped.
 */
bool restricted_state_translate(CPUState *cpu, vaddr va, hwaddr *gpa);

/* Is there such a translation in this thread? */
bool restricted_state_translates(void);

#endif
