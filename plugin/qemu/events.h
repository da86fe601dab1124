/*
 * Events for the controller: the ring, and QMP events.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_EVENTS_H
#define HW_RESTRICTED_MEMORY_QEMU_EVENTS_H

#include "hw/restricted-memory/qemu/backend.h"

void restricted_events_init(RestrictedMemory *rm);
void restricted_record(RestrictedMemory *rm, RmemRecord *rec);
/* What the monitor did to the whole VM; returns the number of the record. */
uint64_t restricted_record_moment(RestrictedMemory *rm, RmemRecord *rec);
/* Journal a guest request that was refused. */
void restricted_violation(RestrictedMemory *rm, hwaddr gpa, uint64_t pages,
                          RmemRefusal refusal, uint64_t pc);
/* @pc: the instruction with which the phase begins, 0 if none does. */
void restricted_phase(RestrictedMemory *rm, RmemPhase phase, uint64_t pc);

#endif
