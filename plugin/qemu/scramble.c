/*
 * What is read where a page has changed sides, and nobody has written yet.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With real hardware it is what was there, as another key makes it look. Here
 * nothing is encrypted: it is noise, a function of address, side and launch.
 * It is written when somebody is about to reach the page, so that a page that
 * nobody reads costs nothing; once, under the lock, and the mark goes after
 * it, so that nobody sees half of it or loses a store to it.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/lockable.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

/* The output function of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A run of that generator, whose start is the page's own. */
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
    uint64_t offset = page << RMEM_PAGE_BITS;
    uint64_t gpa = restricted_offset_to_gpa(rm, offset);
    MemoryRegion *ram;
    RmemState state;

    QEMU_LOCK_GUARD(&rm->lock);
    state = rmem_state(&rm->core, page);
    if (!rmem_any_stale(&rm->core, page, 1)
        || (state != RMEM_SHARED && state != RMEM_PRIVATE)) {
        return;     /* somebody was faster, or nothing is there to be reached */
    }
    ram = state == RMEM_SHARED ? restricted_shared_ram(rm) : &rm->private_ram;
    trace_rmem_page_scramble(gpa, state);
    put_noise((uint8_t *)memory_region_get_ram_ptr(ram) + offset,
              mix(rm->noise + state), gpa);
    rmem_settle(&rm->core, page, 1);
}
