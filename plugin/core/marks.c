/*
 * The flags that a page's byte has beside its state.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "rmem.h"
#include "words.h"

#include <assert.h>

bool rmem_is_launch(const Rmem *rm, uint64_t page)
{
    assert(page < rm->pages);
    return __atomic_load_n(&rm->table[page], __ATOMIC_ACQUIRE) & RMEM_LAUNCH;
}

bool rmem_any_stale(const Rmem *rm, uint64_t first, uint64_t count)
{
    const uint64_t end = first + count;
    const uint64_t marks = word_of(RMEM_STALE);

    assert(first <= rm->pages && count <= rm->pages - first);
    for (uint64_t at = first; at < end;) {
        if (at % WORD_PAGES == 0 && end - at >= WORD_PAGES) {
            const TableWord *word = (const void *)(rm->table + at);

            if (__atomic_load_n(word, __ATOMIC_ACQUIRE) & marks) {
                return true;
            }
            at += WORD_PAGES;
        } else if (__atomic_load_n(&rm->table[at++], __ATOMIC_ACQUIRE)
                   & RMEM_STALE) {
            return true;
        }
    }
    return false;
}

void rmem_settle(Rmem *rm, uint64_t first, uint64_t count)
{
    assert(first <= rm->pages && count <= rm->pages - first);
    for (uint64_t at = first; at < first + count; at++) {
        __atomic_fetch_and(&rm->table[at], (uint8_t)~RMEM_STALE, __ATOMIC_RELEASE);
    }
}
