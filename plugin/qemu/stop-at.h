/*
 * Stopping the VM at a moment that somebody has asked for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_STOP_AT_H
#define HW_RESTRICTED_MEMORY_QEMU_STOP_AT_H

#include "qapi/qapi-types-run-state.h"
#include "hw/restricted-memory/qemu/backend.h"

/* @rec was written: is it the one? Any thread. */
void restricted_stop_at_record(RestrictedMemory *rm, const RmemRecord *rec);
/* The VM has stopped, in @state: was it at the instruction? BQL. */
void restricted_stop_at_stopped(RestrictedMemory *rm, RunState state);

#endif
