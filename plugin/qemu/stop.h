/*
 * Stopping the VM because its guest cannot go on, and telling why.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_STOP_H
#define HW_RESTRICTED_MEMORY_QEMU_STOP_H

#include "hw/restricted-memory/qemu/backend.h"

/* Where a guest CPU was; cpu NULL: it was not a CPU, pc 0: unknown. */
typedef struct RestrictedPlace {
    CPUState *cpu;
    uint64_t pc;
} RestrictedPlace;

void restricted_stop_init(RestrictedMemory *rm);

/*
 * Keep why the guest is about to stop: the first reason counts, until the VM
 * runs again. Any thread.
 */
void restricted_stop_because(RestrictedMemoryStopReason reason,
                             RestrictedPlace at, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* Pause the VM; a vCPU that calls this stops before its next instruction. */
void restricted_stop_vm(void);

/* A copy of why the guest stopped, NULL if there is no reason. */
RestrictedMemoryStop *restricted_stop_reason(void);
/* The guest can go on, or is another one. */
void restricted_stop_forget(void);

/* The counterpart of pause_all_vcpus(). BQL. */
void restricted_resume_vcpus(void);

#endif
