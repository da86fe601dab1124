/*
 * The stack of a guest CPU that causes an event.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_STACK_H
#define HW_RESTRICTED_MEMORY_QEMU_STACK_H

#include "hw/restricted-memory/qemu/backend.h"

/* Keep a window of the running CPU's stack with @rec, if that is asked for. */
void restricted_record_stack(RestrictedMemory *rm, RmemRecord *rec);

/*
 * Guest memory at @pa, which may carry the profile's address bit, for reading
 * without a trace: no access is judged, no page accepted, nothing allocated.
 * NULL if it is not RAM with content. Valid to the end of the page.
 */
const void *restricted_peek(RestrictedMemory *rm, CPUState *cpu, hwaddr pa);

#endif
