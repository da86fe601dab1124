/*
 * The state of a VM beside its memory files: CPUs, devices, other RAM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_VM_STATE_H
#define HW_RESTRICTED_MEMORY_QEMU_VM_STATE_H

#include "hw/restricted-memory/qemu/backend.h"

typedef struct RestrictedVmState RestrictedVmState;

/* Can a device not be saved? Says which. */
bool restricted_vm_state_check(Error **errp);

/* The VM is stopped. NULL and @errp if a device refuses. */
RestrictedVmState *restricted_vm_state_save(RestrictedMemory *rm, Error **errp);
void restricted_vm_state_free(RestrictedVmState *state);

/*
 * In two steps, because a device may look at memory when it is loaded, and may
 * write to it until it is reset: reset, memory, load. If the second fails, the
 * VM has no state and must not run.
 */
void restricted_vm_state_reset(void);
bool restricted_vm_state_load(RestrictedMemory *rm,
                              const RestrictedVmState *state, Error **errp);

#endif
