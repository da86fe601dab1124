/*
 * The event-ring file: its header, and the producers' side of the ring.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A producer claims the slot `head` by compare-and-exchange, fills it, and
 * publishes it by storing seq = head + 1 last. The consumer reads slots in
 * order while their seq is the expected one, then moves `tail`. A slot holds
 * the seq of the previous lap until it is published, so no slot is cleared.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* clock_gettime, nanosleep */
#endif

#include "rmem.h"

#include <string.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the event ring is little-endian, and written in place"
#endif

#define LOSSLESS_WAIT_NS INT64_C(1000000000)
#define LOSSLESS_NAP_NS 100000
#define NOT_STALLED UINT64_MAX

_Static_assert(sizeof(RmemRecord) == 64, "ABI");
_Static_assert(offsetof(RmemRecord, pages) == 40, "ABI");
_Static_assert(offsetof(RmemRecord, kind) == 48, "ABI");
_Static_assert(offsetof(RmemRecord, stack) == 56, "ABI");
_Static_assert(offsetof(RmemShared, head) == 64, "ABI");
_Static_assert(offsetof(RmemShared, tail) == 128, "ABI");
_Static_assert(offsetof(RmemShared, pages) == 192, "ABI");
_Static_assert(offsetof(RmemShared, counters) == 256, "ABI");
_Static_assert(sizeof(RmemShared) <= RMEM_RECORDS_OFFSET, "header fits its page");

static bool power_of_two(uint64_t n)
{
    return n && !(n & (n - 1));
}

static const char *check_header(const RmemShared *shared, uint64_t capacity,
                                uint64_t pages)
{
    if (shared->version != RMEM_SHARED_VERSION ||
        shared->record_size != sizeof(RmemRecord)) {
        return "event ring has another version";
    }
    if (shared->capacity != capacity) {
        return "event ring's header and size do not match";
    }
    if (shared->table_pages != pages) {
        return "event ring belongs to a guest of another size";
    }
    if (shared->phase >= RMEM_PHASES) {
        return "event ring's header has no such phase";
    }
    return NULL;
}

static void fresh_header(Rmem *rm, uint64_t capacity)
{
    RmemShared *shared = rm->shared;
    RmemRun run;

    memset(shared, 0, sizeof(*shared));
    shared->version = RMEM_SHARED_VERSION;
    shared->record_size = sizeof(RmemRecord);
    shared->capacity = capacity;
    shared->table_pages = rm->pages;
    for (uint64_t at = 0; at < rm->pages; at += run.count) {
        run = rmem_run_at(rm, at, rm->pages - at);
        shared->pages[run.state] += (int64_t)run.count;
    }
    /* Written last: a reader that sees the magic sees the rest. */
    __atomic_store_n(&shared->magic, RMEM_SHARED_MAGIC, __ATOMIC_RELEASE);
}

static const char *check_arguments(const RmemProfile *profile,
                                   const void *ring_map, size_t ring_bytes,
                                   const uint8_t *table, uint64_t pages)
{
    const size_t align = sizeof(uint64_t) - 1;

    if (!profile) {
        return "no such profile";
    }
    if (!ring_map || ((uintptr_t)ring_map & align)) {
        return "event ring is not mapped";
    }
    if (ring_bytes < RMEM_RECORDS_OFFSET + 2 * sizeof(RmemRecord) ||
        (ring_bytes - RMEM_RECORDS_OFFSET) % sizeof(RmemRecord) ||
        !power_of_two((ring_bytes - RMEM_RECORDS_OFFSET) / sizeof(RmemRecord))) {
        return "event ring must be 4096 bytes and a power of two of records";
    }
    if (!table || ((uintptr_t)table & align)) {
        return "page-state table is not mapped";
    }
    if (!pages || pages > (uint64_t)INT64_MAX >> RMEM_PAGE_BITS) {
        return "guest RAM has no pages, or too many";
    }
    return NULL;
}

const char *rmem_init(Rmem *rm, const RmemProfile *profile,
                      void *ring_map, size_t ring_bytes,
                      uint8_t *table, uint64_t pages, int table_fd,
                      uint64_t flags)
{
    const char *fault = check_arguments(profile, ring_map, ring_bytes, table, pages);
    uint64_t capacity;

    if (fault) {
        return fault;
    }
    capacity = (ring_bytes - RMEM_RECORDS_OFFSET) / sizeof(RmemRecord);
    *rm = (Rmem){
        .profile = profile,
        .shared = ring_map,
        .records = (void *)((char *)ring_map + RMEM_RECORDS_OFFSET),
        .table = table,
        .pages = pages,
        .table_fd = table_fd,
        .ring_mask = capacity - 1,
        .stalled_tail = NOT_STALLED,
        .flags = flags,
    };
    if (__atomic_load_n(&rm->shared->magic, __ATOMIC_ACQUIRE) == RMEM_SHARED_MAGIC) {
        fault = check_header(rm->shared, capacity, pages);
        if (fault) {
            return fault;
        }
    } else {
        fresh_header(rm, capacity);
    }
    rm->shared->flags = flags;
    rmem_take_phase(rm);
    return NULL;
}

RmemPhase rmem_phase(const Rmem *rm)
{
    return (RmemPhase)__atomic_load_n(&rm->phase, __ATOMIC_ACQUIRE);
}

/* Two threads may set the phase in turn: the header ends with the later one. */
static void publish_phase(Rmem *rm)
{
    uint64_t phase;

    do {
        phase = __atomic_load_n(&rm->phase, __ATOMIC_SEQ_CST);
        __atomic_store_n(&rm->shared->phase, phase, __ATOMIC_SEQ_CST);
    } while (__atomic_load_n(&rm->phase, __ATOMIC_SEQ_CST) != phase);
}

bool rmem_set_phase(Rmem *rm, RmemPhase from, RmemPhase to)
{
    uint64_t old = from;

    if (!__atomic_compare_exchange_n(&rm->phase, &old, (uint64_t)to, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        return false;
    }
    publish_phase(rm);
    return true;
}

void rmem_take_phase(Rmem *rm)
{
    uint64_t phase = __atomic_load_n(&rm->shared->phase, __ATOMIC_ACQUIRE);

    __atomic_store_n(&rm->phase, phase < RMEM_PHASES ? phase : RMEM_PH_USER,
                     __ATOMIC_RELEASE);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/*
 * The ring had @used records while the consumer was at @tail: it is full. True:
 * try again. *@deadline is 0 at first. After one producer has waited in vain, no
 * other waits until the consumer moves: a dead controller costs the guest one
 * wait. A ring with more records than it holds has no consumer to wait for.
 */
static bool wait_for_room(Rmem *rm, uint64_t used, uint64_t tail,
                          int64_t *deadline)
{
    const struct timespec nap = { .tv_nsec = LOSSLESS_NAP_NS };
    const int64_t now = now_ns();

    if (!(rm->flags & RMEM_RING_LOSSLESS) || used > rm->ring_mask + 1 ||
        __atomic_load_n(&rm->stalled_tail, __ATOMIC_RELAXED) == tail) {
        return false;
    }
    if (!*deadline) {
        *deadline = now + LOSSLESS_WAIT_NS;
    } else if (now >= *deadline) {
        __atomic_store_n(&rm->stalled_tail, tail, __ATOMIC_RELAXED);
        return false;
    }
    nanosleep(&nap, NULL);
    return true;
}

bool rmem_ring_push(Rmem *rm, const RmemRecord *rec)
{
    RmemShared *shared = rm->shared;
    uint64_t head = __atomic_load_n(&shared->head, __ATOMIC_ACQUIRE);
    int64_t deadline = 0;
    RmemRecord *slot;

    for (;;) {
        const uint64_t tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);

        if (head - tail <= rm->ring_mask) {
            if (__atomic_compare_exchange_n(&shared->head, &head, head + 1, true,
                                            __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
                break;
            }
        } else {
            /* Full only if head did not move while tail was read. */
            const uint64_t seen = head;

            head = __atomic_load_n(&shared->head, __ATOMIC_ACQUIRE);
            if (head == seen && !wait_for_room(rm, head - tail, tail,
                                              &deadline)) {
                __atomic_fetch_add(&shared->dropped, 1, __ATOMIC_RELAXED);
                return false;
            }
        }
    }
    slot = &rm->records[head & rm->ring_mask];
    memcpy((char *)slot + sizeof(slot->seq), (const char *)rec + sizeof(rec->seq),
           sizeof(*rec) - sizeof(rec->seq));
    __atomic_store_n(&slot->seq, head + 1, __ATOMIC_RELEASE);
    return true;
}
