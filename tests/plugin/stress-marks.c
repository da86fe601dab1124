/*
 * Threads that race for windows of stacks and for the marks of pages. Meant to
 * be run under ThreadSanitizer; `stress-marks race` is a race that it must find.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "rmem.h"
#include "stacks.h"
#include "tap.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define WINDOWS 600     /* fewer than there are slots */
#define ROUNDS 20
#define WORDS 24
#define PAGES 4099      /* odd: the last word of the table is not whole */
#define CAPACITY 1024
#define CODE UINT64_C(0xffffffff81000000)
#define STACK UINT64_C(0xffffc90000010000)

typedef struct Putter {
    RmemStacks *st;
    uint32_t number[WINDOWS];
    bool changed;           /* a window had another number later */
} Putter;

static uint32_t put(RmemStacks *st, uint64_t window)
{
    uint64_t words[WORDS];
    RmemStackInput in = {
        .pc = CODE + window, .sp = STACK, .fp = STACK + 8,
        .code_start = CODE, .code_end = CODE + (1 << 20),
        .piece = { words, words + WORDS / 2 },
        .words = { WORDS / 2, WORDS / 2 },
    };

    for (unsigned i = 0; i < WORDS; i++) {
        words[i] = i % 3 ? window * i : CODE + window * 16 + i;
    }
    return rmem_stack_put(st, &in);
}

static void *put_all(void *opaque)
{
    Putter *p = opaque;

    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < WINDOWS; i++) {
            uint32_t number = put(p->st, i);

            p->changed |= round && number != p->number[i];
            p->number[i] = number;
        }
    }
    return NULL;
}

static void run(void *(*work)(void *), void *of, size_t size)
{
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, work, (char *)of + i * size);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void test_windows(void)
{
    RmemStacks *st = calloc(1, sizeof(*st));
    void *map = calloc(1, RMEM_STACKS_BYTES);
    Putter *putters = calloc(THREADS, sizeof(*putters));
    bool stored = true, kept = true;

    tap_ok(!rmem_stacks_init(st, map, RMEM_STACKS_BYTES), "stacks: a file");
    for (unsigned i = 0; i < THREADS; i++) {
        putters[i].st = st;
    }
    run(put_all, putters, sizeof(*putters));
    for (unsigned i = 0; i < THREADS; i++) {
        kept &= !putters[i].changed;
    }
    for (unsigned i = 0; i < WINDOWS; i++) {
        const uint32_t number = put(st, i);

        stored &= number && st->slots[number - 1].pc == CODE + i
                  && st->slots[number - 1].hash == st->hashes[number - 1];
    }
    tap_ok(stored, "stacks: each window is in its slot, whole");
    tap_ok(kept, "stacks: a window keeps its number");
    /* Two threads may store one window twice, if another has taken its slot. */
    tap_ok(st->header->used >= WINDOWS && !st->header->missed,
           "stacks: none is missed");
    free(putters);
    free(map);
    free(st);
}

static void *mark_and_settle(void *opaque)
{
    Rmem *rm = *(Rmem **)opaque;
    RmemState old;

    for (uint64_t page = 0; page < PAGES; page++) {
        rmem_apply_page(rm, page, RMEM_TO_SHARED, &old);
        rmem_any_stale(rm, page, PAGES - page < 16 ? PAGES - page : 16);
        rmem_settle(rm, page, 1);
        rmem_is_launch(rm, page);
        rmem_apply_page(rm, page, RMEM_TO_PRIVATE, &old);
        rmem_touch(rm, page);
        rmem_settle(rm, page, 1);
    }
    return NULL;
}

static void test_marks(void)
{
    const size_t ring_bytes = RMEM_RECORDS_OFFSET + CAPACITY * sizeof(RmemRecord);
    void *ring = calloc(1, ring_bytes);
    uint8_t *table = calloc(1, PAGES);
    Rmem rm, *each[THREADS] = { &rm, &rm, &rm, &rm };
    uint64_t private = 0;
    const char *fault = rmem_init(&rm, rmem_profile_find("sev"), ring,
                                  ring_bytes, table, PAGES, -1, 0);

    tap_ok(!fault, "marks: memory of a profile that scrambles");
    rmem_set_launch(&rm, 0, PAGES / 2);
    run(mark_and_settle, each, sizeof(*each));
    for (uint64_t page = 0; page < PAGES; page++) {
        private += rmem_state(&rm, page) == RMEM_PRIVATE;
    }
    tap_ok(private == PAGES, "marks: every page ended private");
    tap_ok(!rmem_any_stale(&rm, 0, PAGES), "marks: no page is stale");
    free(table);
    free(ring);
}

static void *race(void *opaque)
{
    ++**(uint64_t **)opaque;
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "race")) {
        uint64_t *n = calloc(1, sizeof(*n)), *each[THREADS] = { n, n, n, n };

        run(race, each, sizeof(*each));
        free(n);
        return 0;
    }
    test_windows();
    test_marks();
    return tap_done();
}
