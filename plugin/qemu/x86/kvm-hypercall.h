/*
 * x86: KVM's CPUID signature, and the hypercall by which its guests convert.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_KVM_HYPERCALL_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_KVM_HYPERCALL_H

#include "hw/restricted-memory/qemu/backend.h"

#define RESTRICTED_KVM_MAP_GPA_RANGE (1u << 16)
#define RESTRICTED_KVM_MIGRATION     (1u << 17)

/* The signature and @features; false: not one of KVM's leaves. */
bool restricted_kvm_cpuid(uint32_t index, uint32_t features,
                          uint32_t regs[4]);
/* KVM_HC_MAP_GPA_RANGE; all others are refused as KVM does. */
bool restricted_kvm_hypercall(RestrictedMemory *rm, CPUState *cpu);

#endif
