/*
 * What the CPUs of any target ask about restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_HOOKS_CPU_H
#define HW_RESTRICTED_MEMORY_QEMU_HOOKS_CPU_H

#include "exec/hwaddr.h"
#include "exec/mmu-access-type.h"
#include "exec/vaddr.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/qemu/hooks.h"

/*
 * Root region of the guest CPUs' address space: system memory for all that is
 * not RAM, and the two views of RAM above all guest addresses.
 */
MemoryRegion *restricted_memory_cpu_root(void);

/* One guest access that is about to enter a TLB. */
typedef struct RestrictedFill {
    CPUState *cpu;
    vaddr va;
    hwaddr pa;              /* guest physical, before a view is chosen */
    MMUAccessType access;
    bool user;
    uintptr_t ra;           /* host return address, to restore guest state */
    bool walk;              /* of a page table, for a fill with the same ra */
    bool accepting;         /* no access: the guest asks to accept the page */
    int *prot;              /* PAGE_* of the TLB entry; may be narrowed */
} RestrictedFill;

/* The fill fails: see RestrictedArch.fills_fail. */
#define RESTRICTED_NOWHERE UINT64_MAX

/*
 * Judge the access and return the address in the CPU root where its data is.
 * Does not return if the access ends in a fault, or returns RESTRICTED_NOWHERE.
 * vCPU thread.
 */
hwaddr restricted_memory_fill(const RestrictedFill *fill);

#endif
