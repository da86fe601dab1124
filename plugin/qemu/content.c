/*
 * The content of guest RAM: how the plugin reaches it, and what a page holds
 * that has changed sides and was not written since.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Real hardware shows the old content, decrypted with another key. Here nothing
 * is encrypted: the page holds noise, a function of address, side and launch.
 * The noise is written when the page is about to be reached, so a page that
 * nobody reads costs nothing. It is written once, under the lock, and the mark
 * is removed afterwards, so nobody sees a part of it or loses a store to it.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/trace.h"

/* The output function of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Output of that generator, from a start that depends on the page. */
static void put_noise(uint8_t *page, uint64_t seed, uint64_t gpa)
{
    uint64_t at = mix(seed ^ mix(gpa));

    for (unsigned i = 0; i < RMEM_PAGE_SIZE; i += 8) {
        at += UINT64_C(0x9e3779b97f4a7c15);
        stq_le_p(page + i, mix(at));
    }
}

void restricted_do_settle(RestrictedMemory *rm, uint64_t page)
{
    uint64_t gpa = restricted_page_to_gpa(rm, page);
    RmemState state;

    RESTRICTED_LOCK_GUARD(&rm->lock);
    state = rmem_state(&rm->core, page);
    if (!rmem_any_stale(&rm->core, page, 1)
        || (state != RMEM_SHARED && state != RMEM_PRIVATE)) {
        return;     /* another thread was faster, or there is no content */
    }
    trace_rmem_page_scramble(gpa, state);
    restricted_mark_dirty(rm, restricted_ram_of(rm, state),
                          &(RestrictedPages){ page, 1 });
    put_noise(restricted_content(rm, page, state), mix(rm->noise + state),
              gpa);
    rmem_settle(&rm->core, page, 1);
}

uint8_t *restricted_ram(RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                        RmemState state)
{
    hwaddr start = gpa & ~(RMEM_PAGE_SIZE - 1);
    RestrictedPages pages;
    RmemRun run;

    if (!restricted_pages(rm, start, ROUND_UP(gpa - start + size,
                                              RMEM_PAGE_SIZE), &pages)) {
        return NULL;
    }
    run = rmem_run_at(&rm->core, pages.first, pages.count);
    if (run.state != state || run.count != pages.count) {
        return NULL;
    }
    for (uint64_t i = 0; i < pages.count; i++) {
        restricted_settle(rm, pages.first + i);
    }
    /* Most callers write to it. */
    restricted_mark_dirty(rm, restricted_ram_of(rm, state), &pages);
    return restricted_content(rm, pages.first, state) + (gpa - start);
}
