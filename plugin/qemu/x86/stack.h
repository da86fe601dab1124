/*
 * x86: where a CPU's stack is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_STACK_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_STACK_H

#include "hw/restricted-memory/qemu/arch.h"

bool restricted_x86_stack(CPUState *cpu, RmemStackInput *in);
bool restricted_x86_walk(RestrictedMemory *rm, CPUState *cpu, uint64_t va,
                         hwaddr *pa);

#endif
