/*
 * Arm: the operations of a profile that only this architecture has.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_ARM_OPS_H
#define HW_RESTRICTED_MEMORY_QEMU_ARM_OPS_H

#include "hw/restricted-memory/qemu/profile.h"

/* Does the machine start firmware, and not a kernel? Once it is built. */
bool restricted_has_firmware(void);
/* The guest has used its interface at @pc: is it its kernel? Any thread. */
void restricted_count_call(RestrictedMemory *rm, uint64_t pc);

/* All optional. */
typedef struct RestrictedArchOps {
    bool calls_by_smc;          /* not by HVC */
    /* A call to what is below the guest; false: it is PSCI's. BQL. */
    bool (*call)(RestrictedMemory *rm, CPUState *cpu);
    /* See hooks-arm.h. */
    int (*pa_bits)(RestrictedMemory *rm, int bits);
} RestrictedArmOps;

#endif
