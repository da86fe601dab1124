/*
 * SEV: the C-bit, and what a wrong one does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 2, 15.34.5: page-table walks, instruction fetches and all
 * accesses without paging are private, whatever the bit.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "exec/exec-all.h"
#include "exec/page-protection.h"
#include "sev.h"
#include "trace.h"

static bool is_private(const RestrictedFill *fill)
{
    return fill->pa & SEV_C_MASK || fill->walk
           || fill->access == MMU_INST_FETCH
           || !(cpu_env(fill->cpu)->cr[0] & CR0_PG_MASK);
}

RestrictedAlias sev_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill)
{
    RestrictedAlias alias = { fill->pa & ~SEV_C_MASK, RESTRICTED_BY_STATE };

    /* Firmware that knows nothing of SEV, and its kernel up to SEV_STATUS. */
    if (!qatomic_read(&sev_guest()->armed)) {
        return alias;
    }
    alias.want = is_private(fill) ? RESTRICTED_PRIVATE : RESTRICTED_SHARED;
    /* Here a fetch and a load go to different memory: an entry for each. */
    if (fill->prot && !fill->walk && !(fill->pa & SEV_C_MASK)
        && cpu_env(fill->cpu)->cr[0] & CR0_PG_MASK) {
        *fill->prot = fill->access == MMU_INST_FETCH ? PAGE_EXEC
                                                     : *fill->prot & ~PAGE_EXEC;
    }
    return alias;
}

bool sev_convert(SevGuest *sev, uint64_t gpa, uint64_t count, RmemEvent event,
                 uint64_t rip)
{
    RestrictedMemory *rm = sev->rm;
    uint64_t size = count << RMEM_PAGE_BITS;

    for (unsigned i = 0; i < rm->nslots; i++) {
        RestrictedPages pages;
        RestrictedChange change = {
            .ranges = &pages, .n = 1, .event = event, .actor = RMEM_A_VCPU,
            .rip = rip,
        };

        if (!restricted_slot_part(&rm->slots[i], gpa, size, &pages)) {
            continue;
        }
        if (!restricted_change(rm, &change, NULL)) {
            restricted_violation(rm, restricted_offset_to_gpa(rm, pages.first
                                                              << RMEM_PAGE_BITS),
                                 pages.count,
                                 change.refusal ?: RMEM_OUT_OF_RANGE, rip);
            return false;
        }
        /* PSMASH: a part of 2 MiB has entries of its own in the RMP. */
        sev->split[pages.first / SEV_PAGES_2M] = pages.count < SEV_PAGES_2M;
    }
    return true;
}

/*
 * Without an RMP a guest shares by its page tables alone, and firmware says
 * nothing of it. It maps memory at its own address.
 */
bool sev_is_shared_untold(RestrictedMemory *rm, hwaddr gpa)
{
    CPUState *cpu = current_cpu ?: first_cpu;
    MemTxAttrs attrs;

    return qatomic_read(&sev_guest()->armed)
           && cpu_env(cpu)->cr[0] & CR0_PG_MASK
           && x86_cpu_get_phys_page_attrs_debug(cpu, gpa, &attrs) == gpa;
}

typedef struct Mismatch {
    uint64_t gpa;
    RmemEvent event;
    uint64_t rip;
} Mismatch;

/* No other vCPU runs, and this one is about to try again. */
static void mismatch_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree Mismatch *mismatch = data.host_ptr;

    trace_rmem_sev_mismatch(mismatch->gpa, mismatch->event, mismatch->rip);
    rmem_count(&sev_guest()->rm->core, RMEM_C_IMPLICIT_CONVERSIONS, 1);
    sev_convert(sev_guest(), mismatch->gpa, 1, mismatch->event,
                mismatch->rip);
}

/*
 * As KVM does (kvm_mem_is_private() and a memory-fault exit): the host gives
 * the guest what it asks for, and what was there is lost.
 */
static G_NORETURN void convert(const RestrictedFill *fill,
                               RestrictedAlias alias)
{
    Mismatch mismatch = {
        .gpa = alias.gpa,
        .event = alias.want == RESTRICTED_PRIVATE ? RMEM_TO_PRIVATE
                                                  : RMEM_TO_SHARED,
    };

    if (fill->ra) {
        cpu_restore_state(fill->cpu, fill->ra);
        mismatch.rip = cpu_env(fill->cpu)->eip;
    } else if (fill->access == MMU_INST_FETCH) {
        mismatch.rip = fill->va;
    }
    async_safe_run_on_cpu(fill->cpu, mismatch_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&mismatch,
                                                        sizeof(mismatch))));
    restricted_fill_again(fill);
}

void sev_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state)
{
    const SevGuest *sev = sev_guest();
    bool unvalidated = alias.want == RESTRICTED_PRIVATE
                       && state == RMEM_PENDING;

    if (!unvalidated && !restricted_fill_is_delivery(fill)
        && !sev->stop_on_mismatch) {
        convert(fill, alias);
    }
    restricted_guest_fault(rm, fill, alias.gpa, state);
    if (unvalidated && !fill->walk && !restricted_fill_is_delivery(fill)) {
        sev_raise_vc(fill->cpu, 0x404, fill->ra);
    }
    restricted_fill_stop(fill);
}
