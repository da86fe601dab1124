/*
 * KVM_X86_SW_PROTECTED_VM: private memory from guest_memfd, no hardware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest converts by the hypercall KVM_HC_MAP_GPA_RANGE, which it finds
 * by KVM's CPUID signature.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/x86/kvm-hypercall.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/x86.h"

static bool sw_protected_cpuid(CPUState *cpu, uint32_t index,
                               uint32_t subindex, uint32_t regs[4])
{
    return restricted_kvm_cpuid(index, RESTRICTED_KVM_MAP_GPA_RANGE, regs);
}

static const RestrictedX86Ops sw_protected_ops = {
    .cpuid = sw_protected_cpuid,
    .hypercall = restricted_kvm_hypercall,
};

const RestrictedProfile restricted_profile_sw_protected = {
    .name = "sw-protected",
    .touch_is_fault = true,
    .arch_ops = &sw_protected_ops,
};
