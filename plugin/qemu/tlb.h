/*
 * Flushing what guest CPUs have cached of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_TLB_H
#define HW_RESTRICTED_MEMORY_QEMU_TLB_H

#include "hw/restricted-memory/qemu/backend.h"

/* Does the code at @ra count the instructions that it executes? */
bool restricted_is_counted(uintptr_t ra);

/* Empty all TLBs. No guest CPU runs, so this thread may. */
void restricted_flush(void);
/* Remove only the entries of these pages. No guest CPU runs. */
void restricted_flush_pages(RestrictedMemory *rm, const RestrictedPages *pages);
/* Empty each CPU's TLB before its next instruction. */
void restricted_flush_later(void);
/* Remove the code that was translated from these pages. */
void restricted_forget_code(MemoryRegion *ram, const RestrictedPages *pages);

#endif
