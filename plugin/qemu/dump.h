/*
 * Dumps of a guest's memory, and how a debugger finds it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_DUMP_H
#define HW_RESTRICTED_MEMORY_QEMU_DUMP_H

#include "qapi/qmp-registry.h"
#include "hw/restricted-memory/qemu/backend.h"

/* Journal that a debugger may read @pages pages of RAM from @gpa on. */
void restricted_debug_record(RestrictedMemory *rm, hwaddr gpa, uint64_t pages);

/* The bit that guest physical addresses in page tables may have, 0 if none. */
uint64_t restricted_debug_alias(const RestrictedMemory *rm);

/* `dump-guest-memory` of a debuggable VM. */
QmpCommandFunc restricted_qmp_dump;

/* Have the debugging commands of a debuggable VM answer (debugger.c). */
void restricted_debugger_machine_done(RestrictedMemory *rm);

#endif
