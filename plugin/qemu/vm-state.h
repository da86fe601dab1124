/*
 * The state of a VM beside its memory files: CPUs, devices, other RAM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_VM_STATE_H
#define HW_RESTRICTED_MEMORY_QEMU_VM_STATE_H

#include "hw/restricted-memory/qemu/handover.h"

typedef struct RestrictedVmState RestrictedVmState;

/* May all of it become what it was at another time? BQL. */
bool restricted_vm_may_move(RestrictedMemory *rm, Error **errp);
/* Is nothing under way that would be lost, and can all devices be saved? BQL. */
bool restricted_vm_may_be_saved(RestrictedMemory *rm, Error **errp);

/* The VM is stopped. NULL and @errp if a device refuses. */
RestrictedVmState *restricted_vm_state_save(Error **errp);
void restricted_vm_state_free(RestrictedVmState *state);

/*
 * In two steps, because a device may look at memory when it is loaded, and may
 * write to it until it is reset: reset, memory, load. If the second fails, the
 * VM has no state and must not run.
 */
void restricted_vm_state_reset(void);
bool restricted_vm_state_load(const RestrictedVmState *state,
                              RestrictedHandoverTo to, Error **errp);

/* As bytes, and back from bytes that may be anything: NULL and @errp then. */
void restricted_vm_state_pack(const RestrictedVmState *state, GByteArray *to);
RestrictedVmState *restricted_vm_state_unpack(const uint8_t *bytes, size_t n,
                                              Error **errp);

#endif
