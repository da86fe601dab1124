/*
 * The page-state table: read it, check an event, change it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table of a large guest is mostly holes. All pages of a hole are pending.
 * Reading a hole through the mapping would allocate it, so all code that walks
 * the table first asks the file where its data is.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* SEEK_DATA, fallocate */
#endif

#include "rmem.h"
#include "words.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define TABLE_CHUNK 4096    /* smallest piece of the table file that has storage */

/* The table up to @end is a hole, or is data; empty when end was passed. */
typedef struct Extent {
    uint64_t end;
    bool hole;
} Extent;

static const RmemCounter counter_of[RMEM_EVENTS] = {
    [RMEM_TOUCH] = RMEM_C_ACCEPTED,
    [RMEM_ACCEPT] = RMEM_C_ACCEPTED,
    [RMEM_TO_SHARED] = RMEM_C_TO_SHARED,
    [RMEM_TO_PRIVATE] = RMEM_C_TO_PRIVATE,
    [RMEM_DISCARD] = RMEM_C_DISCARDED,
    [RMEM_POISON] = RMEM_C_POISONED,
    [RMEM_LOAD] = RMEM_C_LOADED,
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static RmemState state_at(const Rmem *rm, uint64_t page)
{
    return __atomic_load_n(&rm->table[page], __ATOMIC_ACQUIRE) & RMEM_STATE_MASK;
}

static Extent extent_at(const Rmem *rm, uint64_t at, uint64_t end)
{
    off_t data;

    if (rm->table_fd < 0) {
        return (Extent){ .end = end };
    }
    data = lseek(rm->table_fd, (off_t)at, SEEK_DATA);
    if (data < 0) {
        return (Extent){ .end = end, .hole = errno == ENXIO };
    }
    if ((uint64_t)data > at) {
        return (Extent){ .end = min_u64((uint64_t)data, end), .hole = true };
    }
    /* Not SEEK_HOLE: it walks all of a long extent for each run in it. */
    return (Extent){ .end = min_u64((at | (TABLE_CHUNK - 1)) + 1, end) };
}

/* First page of [at, end) that is not in @state, or @end. All of it is data. */
static uint64_t skip_equal(const Rmem *rm, uint64_t at, uint64_t end,
                           RmemState state)
{
    const uint64_t want = word_of(state), mask = word_of(RMEM_STATE_MASK);

    while (at < end) {
        if (at % WORD_PAGES == 0 && end - at >= WORD_PAGES) {
            const TableWord *word = (const void *)(rm->table + at);

            if ((__atomic_load_n(word, __ATOMIC_RELAXED) & mask) == want) {
                at += WORD_PAGES;
                continue;
            }
        }
        if (state_at(rm, at) != state) {
            break;
        }
        at++;
    }
    return at;
}

/* Run at @first, not beyond @end; *@ext caches the extent of the file there. */
static RmemRun run_from(const Rmem *rm, uint64_t first, uint64_t end,
                        Extent *ext)
{
    RmemRun run = { .first = first };
    uint64_t at = first;

    while (at < end) {
        if (at >= ext->end) {
            *ext = extent_at(rm, at, end);
        }
        if (at == first && !ext->hole) {
            /* Read once: a run has a page, whatever others write there. */
            run.state = state_at(rm, at++);
            continue;
        }
        if (ext->hole) {
            if (run.state != RMEM_PENDING) {
                break;
            }
            at = ext->end;
        } else {
            at = skip_equal(rm, at, ext->end, run.state);
            if (at < ext->end) {
                break;
            }
        }
    }
    run.count = at - first;
    return run;
}

/*
 * Concurrent readers see old or new bytes, nothing else. Bits in @keep do not
 * change.
 */
static void fill(Rmem *rm, uint64_t first, uint64_t count, uint8_t byte,
                 uint8_t keep)
{
    const uint64_t end = first + count, word = word_of(byte), kept = word_of(keep);

    while (first < end) {
        if (first % WORD_PAGES == 0 && end - first >= WORD_PAGES) {
            TableWord *to = (void *)(rm->table + first);

            __atomic_store_n(to, word | (__atomic_load_n(to, __ATOMIC_RELAXED) & kept),
                             __ATOMIC_RELEASE);
            first += WORD_PAGES;
        } else {
            uint8_t *to = &rm->table[first++];
            uint8_t old = __atomic_load_n(to, __ATOMIC_RELAXED);

            __atomic_store_n(to, (uint8_t)(byte | (old & keep)), __ATOMIC_RELEASE);
        }
    }
}

/* The flags of a page after a step. */
static uint8_t flags_after(const Rmem *rm, RmemEvent event, RmemState from,
                           RmemState to)
{
    bool moves = (from == RMEM_SHARED) != (to == RMEM_SHARED);

    if (event == RMEM_LOAD) {
        return RMEM_LAUNCH;
    }
    return rm->profile->scrambles && moves
           && (event == RMEM_TO_SHARED || event == RMEM_TO_PRIVATE) ? RMEM_STALE : 0;
}

static uint8_t flags_kept(RmemEvent event)
{
    return event == RMEM_TOUCH || event == RMEM_ACCEPT ? RMEM_STALE : 0;
}

static void move_pages(Rmem *rm, RmemState from, RmemState to, uint64_t count)
{
    __atomic_fetch_sub(&rm->shared->pages[from], (int64_t)count, __ATOMIC_RELAXED);
    __atomic_fetch_add(&rm->shared->pages[to], (int64_t)count, __ATOMIC_RELAXED);
}

static void bump_generation(Rmem *rm)
{
    __atomic_fetch_add(&rm->generation, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&rm->shared->generation, 1, __ATOMIC_RELEASE);
}

void rmem_count(Rmem *rm, RmemCounter counter, uint64_t n)
{
    assert(counter < RMEM_COUNTERS);
    __atomic_fetch_add(&rm->shared->counters[counter], n, __ATOMIC_RELAXED);
}

RmemState rmem_state(const Rmem *rm, uint64_t page)
{
    assert(page < rm->pages);
    return state_at(rm, page);
}

void rmem_set_launch(Rmem *rm, uint64_t first, uint64_t count)
{
    Extent ext = { 0 };
    RmemRun run;

    assert(first <= rm->pages && count <= rm->pages - first);
    for (uint64_t at = first, end = first + count; at < end; at += run.count) {
        run = run_from(rm, at, end, &ext);
        if (run.state == RMEM_PENDING) {
            fill(rm, at, run.count, RMEM_PENDING | RMEM_LAUNCH, 0);
        }
    }
}

RmemState rmem_touch(Rmem *rm, uint64_t page)
{
    const RmemRule *rule = &rm->profile->rules[RMEM_TOUCH][RMEM_PENDING];
    uint8_t old;

    assert(page < rm->pages);
    old = __atomic_load_n(&rm->table[page], __ATOMIC_ACQUIRE);
    if (rule->refusal != RMEM_OK || rule->next == RMEM_PENDING) {
        return old & RMEM_STATE_MASK;
    }
    while ((old & RMEM_STATE_MASK) == RMEM_PENDING) {
        uint8_t next = rule->next | (old & RMEM_STALE);

        if (__atomic_compare_exchange_n(&rm->table[page], &old, next, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            move_pages(rm, RMEM_PENDING, rule->next, 1);
            rmem_count(rm, counter_of[RMEM_TOUCH], 1);
            return RMEM_PENDING;
        }
    }
    return old & RMEM_STATE_MASK;
}

RmemRun rmem_run_at(const Rmem *rm, uint64_t first, uint64_t count)
{
    Extent ext = { 0 };

    if (first >= rm->pages) {
        return (RmemRun){ .first = first };
    }
    return run_from(rm, first, first + min_u64(count, rm->pages - first), &ext);
}

static RmemRefusal refuse(RmemRefusal why, uint64_t page, uint64_t *bad)
{
    if (bad) {
        *bad = page;
    }
    return why;
}

RmemRefusal rmem_check(const Rmem *rm, uint64_t first, uint64_t count,
                       RmemEvent event, uint64_t *bad)
{
    Extent ext = { 0 };
    RmemRun run;

    if ((unsigned)event >= RMEM_EVENTS) {
        return refuse(RMEM_OUT_OF_RANGE, first, bad);
    }
    if (first > rm->pages || count > rm->pages - first) {
        return refuse(RMEM_OUT_OF_RANGE, first < rm->pages ? rm->pages : first, bad);
    }
    for (uint64_t at = first, end = first + count; at < end; at += run.count) {
        run = run_from(rm, at, end, &ext);
        if (rm->profile->rules[event][run.state].refusal != RMEM_OK) {
            return refuse(rm->profile->rules[event][run.state].refusal, at, bad);
        }
    }
    return RMEM_OK;
}

static void count_change(Rmem *rm, RmemState from, RmemState to,
                         RmemEvent event, uint64_t pages)
{
    if (from == to) {
        return;
    }
    move_pages(rm, from, to, pages);
    rmem_count(rm, counter_of[event], pages);
    /* Acceptance takes nothing away; each other step takes from guest or host. */
    if (from != RMEM_PENDING || to != RMEM_PRIVATE) {
        bump_generation(rm);
    }
}

/* The content of a run is gone. A hole has no marks, and stays a hole. */
static void clear_marks(Rmem *rm, RmemRun run)
{
    const uint64_t end = run.first + run.count;
    Extent ext;

    for (uint64_t at = run.first; at < end; at = ext.end) {
        ext = extent_at(rm, at, end);
        for (uint64_t page = at; !ext.hole && page < ext.end; page++) {
            /* A vCPU may be accepting the page: do not write its state. */
            __atomic_fetch_and(&rm->table[page], RMEM_STATE_MASK, __ATOMIC_ACQ_REL);
        }
    }
}

/* Change a run of one state as the rules allow. */
static void change_run(Rmem *rm, RmemRun run, RmemEvent event, RmemState to)
{
    if (event == RMEM_LOAD || to != run.state) {
        fill(rm, run.first, run.count,
             (uint8_t)to | flags_after(rm, event, run.state, to), flags_kept(event));
    } else if (event == RMEM_DISCARD) {
        clear_marks(rm, run);
    }
    count_change(rm, run.state, to, event, run.count);
}

RmemRefusal rmem_apply(Rmem *rm, uint64_t first, uint64_t count,
                       RmemEvent event, RmemRunFn *fn, void *opaque,
                       uint64_t *bad)
{
    RmemRefusal refusal = rmem_check(rm, first, count, event, bad);
    Extent ext = { 0 };
    RmemRun run;

    if (refusal != RMEM_OK) {
        return refusal;
    }
    for (uint64_t at = first, end = first + count; at < end; at += run.count) {
        RmemState to;

        run = run_from(rm, at, end, &ext);
        to = rm->profile->rules[event][run.state].next;
        change_run(rm, run, event, to);
        if (fn) {
            fn(opaque, run, to);
        }
    }
    return RMEM_OK;
}

RmemRefusal rmem_apply_page(Rmem *rm, uint64_t page, RmemEvent event,
                            RmemState *old)
{
    const RmemRule *rules;
    uint8_t byte, next;

    *old = RMEM_PENDING;
    if ((unsigned)event >= RMEM_EVENTS || page >= rm->pages) {
        return RMEM_OUT_OF_RANGE;
    }
    rules = rm->profile->rules[event];
    byte = __atomic_load_n(&rm->table[page], __ATOMIC_ACQUIRE);
    do {
        *old = byte & RMEM_STATE_MASK;
        if (rules[*old].refusal != RMEM_OK) {
            return rules[*old].refusal;
        }
        next = rules[*old].next;
        if (next == *old && event != RMEM_LOAD && event != RMEM_DISCARD) {
            return RMEM_OK;
        }
        next |= flags_after(rm, event, *old, next) | (byte & flags_kept(event));
    } while (!__atomic_compare_exchange_n(&rm->table[page], &byte, next, false,
                                          __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    count_change(rm, *old, next & RMEM_STATE_MASK, event, 1);
    return RMEM_OK;
}

static void clear_table(Rmem *rm)
{
    const uint64_t size = (rm->pages | (TABLE_CHUNK - 1)) + 1;
    Extent ext;

    if (rm->table_fd >= 0 &&
        fallocate(rm->table_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  0, (off_t)size) == 0) {
        return;
    }
    for (uint64_t at = 0; at < rm->pages; at = ext.end) {
        ext = extent_at(rm, at, rm->pages);
        if (!ext.hole) {
            fill(rm, at, ext.end - at, RMEM_PENDING, 0);
        }
    }
}

void rmem_reset(Rmem *rm)
{
    clear_table(rm);
    for (unsigned state = 0; state < RMEM_STATES; state++) {
        __atomic_store_n(&rm->shared->pages[state],
                         state == RMEM_PENDING ? (int64_t)rm->pages : 0,
                         __ATOMIC_RELAXED);
    }
    rmem_count(rm, RMEM_C_RESETS, 1);
    bump_generation(rm);
}
