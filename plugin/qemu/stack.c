/*
 * The stack of a guest CPU that causes an event.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest chooses its stack pointer and its page tables, so they are input:
 * what is not RAM with content ends the window. Nothing here takes a lock, as
 * records are made under several of them. Two pages hold a window.
 */

#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/stack.h"

const void *restricted_peek(RestrictedMemory *rm, CPUState *cpu, hwaddr pa)
{
    RestrictedFill fill = {
        .cpu = cpu, .pa = pa, .access = MMU_DATA_LOAD, .walk = true,
    };
    hwaddr gpa = rm->profile->alias ? rm->profile->alias(rm, &fill).gpa : pa;
    uint64_t page = restricted_page_at(rm, gpa);
    RmemState state;

    if (page == RESTRICTED_NO_PAGE) {
        return NULL;
    }
    state = rmem_state(&rm->core, page);
    /* Reading a hole would give it storage. Noise is no content. */
    if ((state != RMEM_PRIVATE && state != RMEM_SHARED)
        || rmem_any_stale(&rm->core, page, 1)) {
        return NULL;
    }
    return restricted_content(rm, page, state) + (gpa & (RMEM_PAGE_SIZE - 1));
}

static bool is_asked_for(const RmemRecord *rec)
{
    switch (rec->kind) {
    case RMEM_K_ACCEPT:
    case RMEM_K_CONVERT:
    case RMEM_K_HOST_FAULT:
    case RMEM_K_GUEST_FAULT:
    case RMEM_K_VIOLATION:
    case RMEM_K_EXIT:
        return rec->pc != 0;
    default:
        return false;
    }
}

void restricted_record_stack(RestrictedMemory *rm, RmemRecord *rec)
{
    RmemStackInput in = { .pc = rec->pc };
    uint64_t at;

    if (!rm->stacks.header || !current_cpu || !is_asked_for(rec)
        || !rm->arch->stack(current_cpu, &in)) {
        return;
    }
    in.sp &= ~(uint64_t)7;
    at = in.sp;
    for (int i = 0; i < ARRAY_SIZE(in.piece); i++) {
        hwaddr pa;

        if (!rm->arch->walk(rm, current_cpu, at, &pa)) {
            break;
        }
        in.piece[i] = restricted_peek(rm, current_cpu, pa);
        if (!in.piece[i]) {
            break;
        }
        in.words[i] = (RMEM_PAGE_SIZE - (at & (RMEM_PAGE_SIZE - 1))) / 8;
        at += in.words[i] * 8;
    }
    rec->stack = rmem_stack_put(&rm->stacks, &in);
}
