/*
 * Flushing what guest CPUs have cached of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A TLB is indexed by virtual address. A conversion has guest physical
 * addresses, and QEMU cannot flush by those. Flushing everything costs the
 * guest its working set, and a kernel may convert a thousand times while it
 * boots. So flush_entries() removes the entries that lead to the host memory
 * of the converted pages.
 *
 * Translated code is removed together with the content of its page
 * (restricted_forget_code()), and from the jump caches as well.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "hw/core/cpu.h"
#include "tcg/tcg.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/tlb.h"

bool restricted_is_counted(uintptr_t ra)
{
    const TranslationBlock *tb = tcg_tb_lookup(ra);

    return tb && tb_cflags(tb) & CF_USE_ICOUNT;
}

void restricted_flush(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        tlb_flush(cpu);
    }
}

static void flush_cpu(CPUState *cpu, run_on_cpu_data data)
{
    tlb_flush(cpu);
}

void restricted_flush_later(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        async_run_on_cpu(cpu, flush_cpu, RUN_ON_CPU_NULL);
    }
}

/* Ranges of host memory; only one of them in the in-place layout. */
typedef struct Span {
    uintptr_t start[2];
    unsigned n;
    uint64_t size;
} Span;

static bool leads_to(const CPUTLBEntry *entry, const Span *span)
{
    for (unsigned access = 0; access < MMU_ACCESS_COUNT; access++) {
        uintptr_t va = entry->addr_idx[access], host;

        if (va == UINTPTR_MAX) {
            continue;           /* not for this kind of access */
        }
        host = (va & TARGET_PAGE_MASK) + entry->addend;
        for (unsigned i = 0; i < span->n; i++) {
            if (host - span->start[i] < span->size) {
                return true;
            }
        }
        return false;
    }
    return false;
}

/* Returns how many entries were removed. */
static unsigned flush_entries(CPUTLBEntry *entries, size_t n, const Span *span)
{
    unsigned found = 0;

    for (size_t i = 0; i < n; i++) {
        if (leads_to(&entries[i], span)) {
            memset(&entries[i], -1, sizeof(entries[i]));
            found++;
        }
    }
    return found;
}

static void flush_span(CPUState *cpu, const Span *span)
{
    CPUTLB *tlb = &cpu->neg.tlb;

    qemu_spin_lock(&tlb->c.lock);
    for (unsigned mode = 0; mode < NB_MMU_MODES; mode++) {
        CPUTLBDescFast *fast = cpu_tlb_fast(cpu, mode);
        CPUTLBDesc *desc = &tlb->d[mode];

        if (tlb->c.dirty & 1 << mode) {
            desc->n_used_entries -=
                flush_entries(fast->table,
                              (fast->mask >> CPU_TLB_ENTRY_BITS) + 1, span)
                + flush_entries(desc->vtable, CPU_VTLB_SIZE, span);
        }
    }
    qemu_spin_unlock(&tlb->c.lock);
}

void restricted_flush_pages(RestrictedMemory *rm, const RestrictedPages *pages)
{
    MemoryRegion *ram[] = { &rm->private_ram, &rm->shared_ram };
    Span span = {
        .n = restricted_is_split(rm) ? 2 : 1,
        .size = pages->count << RMEM_PAGE_BITS,
    };
    CPUState *cpu;

    for (unsigned i = 0; i < span.n; i++) {
        span.start[i] = (uintptr_t)memory_region_get_ram_ptr(ram[i])
                        + (pages->first << RMEM_PAGE_BITS);
    }
    CPU_FOREACH(cpu) {
        flush_span(cpu, &span);
    }
}

void restricted_forget_code(MemoryRegion *ram, const RestrictedPages *pages)
{
    ram_addr_t start = memory_region_get_ram_addr(ram)
                       + (pages->first << RMEM_PAGE_BITS);

    tb_invalidate_phys_range(NULL, start, start + (pages->count << RMEM_PAGE_BITS)
                                    - 1);
}
