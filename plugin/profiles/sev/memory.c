/*
 * SEV: the C-bit, and what an access with a wrong one does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 2, 15.34: page-table walks, instruction fetches and all
 * accesses without paging are private, whatever the bit.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "exec/page-protection.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/sev/memory.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "hw/restricted-memory/trace.h"

static bool is_private(const RestrictedFill *fill)
{
    return fill->pa & SEV_C_MASK || fill->walk
           || fill->access == MMU_INST_FETCH
           || !(cpu_env(fill->cpu)->cr[0] & CR0_PG_MASK);
}

/*
 * A plain SEV guest need not call its host at all. What shows that its kernel
 * knows of SEV is the C-bit where it maps its own code.
 */
static void count_mapping(SevGuest *sev, const RestrictedFill *fill)
{
    if (fill->access == MMU_INST_FETCH && (int64_t)fill->va < 0
        && fill->pa & SEV_C_MASK && qatomic_xchg(&sev->counts_mapping, false)) {
        restricted_count_call(sev->rm, fill->va);
    }
}

uint64_t sev_view_bit(const RestrictedMemory *rm)
{
    return SEV_C_MASK;
}

RestrictedAlias sev_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill)
{
    RestrictedAlias alias = { fill->pa & ~SEV_C_MASK, RESTRICTED_BY_STATE };
    SevGuest *sev = sev_guest();

    /* Firmware that does not know SEV, and its kernel so far. */
    if (!qatomic_read(&sev->armed)) {
        return alias;
    }
    if (unlikely(sev->counts_mapping)) {
        count_mapping(sev, fill);
    }
    alias.want = is_private(fill) ? RESTRICTED_PRIVATE : RESTRICTED_SHARED;
    /* A fetch and a load go to different memory: a TLB entry for each. */
    if (fill->prot && !fill->walk && !(fill->pa & SEV_C_MASK)
        && cpu_env(fill->cpu)->cr[0] & CR0_PG_MASK) {
        *fill->prot = fill->access == MMU_INST_FETCH ? PAGE_EXEC
                                                     : *fill->prot & ~PAGE_EXEC;
    }
    return alias;
}

bool sev_convert(SevGuest *sev, uint64_t gpa, uint64_t count, RmemEvent event,
                 uint64_t rip, uint8_t flags)
{
    RestrictedMemory *rm = sev->rm;
    uint64_t size = count << RMEM_PAGE_BITS;

    for (unsigned i = 0; i < rm->nslots; i++) {
        RestrictedPages pages;
        RestrictedChange change = {
            .ranges = &pages, .n = 1, .event = event, .actor = RMEM_A_VCPU,
            .pc = rip, .flags = flags,
        };

        if (!restricted_slot_part(&rm->slots[i], gpa, size, &pages)) {
            continue;
        }
        if (!restricted_change(rm, &change, NULL)) {
            restricted_violation(rm, restricted_page_to_gpa(rm, pages.first),
                                 pages.count,
                                 change.refusal ?: RMEM_OUT_OF_RANGE, rip);
            return false;
        }
        /* PSMASH: a part of 2 MiB has entries of its own in the RMP. */
        sev->split[pages.first / RESTRICTED_PAGES_2M]
            = pages.count < RESTRICTED_PAGES_2M;
    }
    return true;
}

/*
 * Without an RMP a guest shares memory only by its page tables, and firmware
 * does not tell the host. Firmware maps memory at its physical address.
 */
bool sev_is_shared_untold(RestrictedMemory *rm, hwaddr gpa)
{
    CPUState *cpu = current_cpu ?: first_cpu;
    hwaddr found;

    return qatomic_read(&sev_guest()->armed)
           && cpu_env(cpu)->cr[0] & CR0_PG_MASK
           && restricted_state_translate(cpu, gpa, &found)
           && found == gpa;
}

typedef struct Mismatch {
    uint64_t gpa;
    RmemEvent event;
    uint64_t rip;
} Mismatch;

/* No other vCPU runs, and this one will try the access again. */
static void mismatch_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree Mismatch *mismatch = data.host_ptr;

    trace_rmem_sev_mismatch(mismatch->gpa, mismatch->event, mismatch->rip);
    rmem_count(&sev_guest()->rm->core, RMEM_C_IMPLICIT_CONVERSIONS, 1);
    sev_convert(sev_guest(), mismatch->gpa, 1, mismatch->event,
                mismatch->rip, RMEM_F_IMPLICIT);
}

/*
 * As with KVM (kvm_mem_is_private() and a memory-fault exit): the host converts
 * the page as the access asks, and the content is lost.
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
        mismatch.rip = restricted_arch()->pc_at(fill->cpu, fill->ra);
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
    restricted_fill_stop(fill, alias.gpa);
}
