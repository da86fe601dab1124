/*
 * x86: where a kernel that does not speak the profile's interface would die.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_UNAWARE_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_UNAWARE_H

#include "hw/restricted-memory/qemu/x86/ops.h"

/* An instruction in the upper half is a kernel's: see unaware.c. */
bool restricted_is_kernel(uint64_t pc);

/*
 * The guest executes CPUID, RDMSR, WRMSR or port I/O; @type and @param are as
 * in restricted_memory_intercept(). The first one of a kernel that hardware
 * answers with an exception goes to the journal. vCPU thread.
 */
void restricted_note_exit(const RestrictedX86Ops *ops, CPUState *cpu,
                          uint32_t type, uint64_t param, uintptr_t ra);

#endif
