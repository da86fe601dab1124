/*
 * What the plugin asks of the target's CPUs and machines.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each architecture implements this in a folder of its own in qemu/. A target
 * without one links no-arch.c, and its machines have no restricted memory.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_ARCH_H
#define HW_RESTRICTED_MEMORY_QEMU_ARCH_H

#include "hw/restricted-memory/core/stacks.h"
#include "hw/restricted-memory/qemu/profile.h"

typedef struct RestrictedArch {
    /* The guest interfaces that this target has; the last one is NULL. */
    const RestrictedProfile *const *profiles;
    /*
     * A denied access makes the fill fail, and the target raises what a failed
     * access raises. Such a target needs no machine_check.
     */
    bool fills_fail;

    /* The backend is complete, the machine is not built yet. */
    void (*init)(RestrictedMemory *rm);
    /* False and @errp: restricted memory cannot work with this machine. */
    bool (*check_machine)(Error **errp);
    /* The machine is complete, no reset yet. */
    void (*machine_done)(RestrictedMemory *rm);
    /* RAM in [*start, *end) has no fixed place; not set if there is none. */
    void (*find_hole)(hwaddr *start, hwaddr *end);
    /* A fresh launch. */
    void (*reset)(RestrictedMemory *rm);

    /* Program counter of @cpu, whose state is up to date. */
    uint64_t (*pc)(CPUState *cpu);
    /* The same for the host return address @ra; 0 if it is unknown. */
    uint64_t (*pc_at)(CPUState *cpu, uintptr_t ra);
    /* Has @cpu met an exception that it cannot deliver, and given up? */
    bool (*has_crashed)(CPUState *cpu);
    /*
     * Where the stack of @cpu is, whose state but for the program counter is up
     * to date, and where code can be; false if it is not a kernel's.
     */
    bool (*stack)(CPUState *cpu, RmemStackInput *in);
    /* The physical address of @va by the page tables of @cpu, read without a
       trace (see stack.h), so with the profile's address bit. */
    bool (*walk)(RestrictedMemory *rm, CPUState *cpu, uint64_t va, hwaddr *pa);
    /* Forget that @cpu was about to deliver an exception. */
    void (*drop_exception)(CPUState *cpu);
    /*
     * Tell the guest that the page it touches at @gpa is poisoned: raise the
     * exception, without the BQL. Returns if the guest gets none, because it
     * is being reset.
     */
    void (*machine_check)(CPUState *cpu, hwaddr gpa, uintptr_t ra);
    /*
     * While RestrictedMemory.code_awaited: @cpu fetches from a page of RAM
     * with the content at @page.
     */
    void (*code)(RestrictedMemory *rm, CPUState *cpu, const uint8_t *page);
} RestrictedArch;

/* NULL: the target's CPUs cannot have restricted memory. */
const RestrictedArch *restricted_arch(void);

#endif
