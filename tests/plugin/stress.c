/*
 * Threads that race in the core: producers of the ring, and first touch.
 * Meant to be run under ThreadSanitizer, too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "rmem.h"
#include "tap.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PRODUCERS 4
#define RECORDS_EACH 100000
#define TOUCHERS 4
#define PAGES 20011     /* odd: the last word of the table is not whole */
#define CAPACITY 1024

typedef struct Fixture {
    Rmem rm;
    void *ring;
    uint8_t *table;
} Fixture;

typedef struct Producer {
    Fixture *f;
    uint16_t id;
    uint64_t lost;
    uint64_t taken;     /* atomic: gpa of the last record that the consumer took */
} Producer;

typedef struct Consumer {
    Fixture *f;
    Producer producers[PRODUCERS];
    uint64_t got;
    uint64_t last[PRODUCERS];
    bool in_order;
    bool finish;        /* atomic: producers are done */
} Consumer;

static Fixture fixture(uint64_t flags)
{
    const size_t ring_bytes = RMEM_RECORDS_OFFSET + CAPACITY * sizeof(RmemRecord);
    Fixture f = {
        .ring = calloc(1, ring_bytes),
        .table = calloc(1, PAGES),
    };
    const char *fault = rmem_init(&f.rm, rmem_profile_find("sw-protected"),
                                  f.ring, ring_bytes, f.table, PAGES, -1, flags);

    if (fault) {
        printf("Bail out! %s\n", fault);
        exit(1);
    }
    return f;
}

static void drop_fixture(Fixture *f)
{
    free(f->ring);
    free(f->table);
}

/* A record holds its producer and how many records that one made before. */
static void *produce(void *opaque)
{
    Producer *p = opaque;

    for (uint64_t i = 1; i <= RECORDS_EACH; i++) {
        const RmemRecord rec = { .kind = RMEM_K_ACCEPT, .vcpu = p->id, .gpa = i, .pc = ~i };

        p->lost += !rmem_ring_push(&p->f->rm, &rec);
    }
    return NULL;
}

/* Take all published records; false if there were none. */
static bool take_one(Consumer *c)
{
    Rmem *rm = &c->f->rm;
    const uint64_t tail = rm->shared->tail;
    const RmemRecord *slot = &rm->records[tail % CAPACITY];
    RmemRecord rec;

    if (__atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) != tail + 1) {
        return false;
    }
    rec = *slot;
    __atomic_store_n(&rm->shared->tail, tail + 1, __ATOMIC_RELEASE);
    if (rec.vcpu >= PRODUCERS || rec.pc != ~rec.gpa || rec.gpa <= c->last[rec.vcpu]) {
        c->in_order = false;
    } else {
        c->last[rec.vcpu] = rec.gpa;
        __atomic_store_n(&c->producers[rec.vcpu].taken, rec.gpa, __ATOMIC_RELEASE);
    }
    c->got++;
    return true;
}

static void *consume(void *opaque)
{
    Consumer *c = opaque;

    for (;;) {
        const bool last_round = __atomic_load_n(&c->finish, __ATOMIC_ACQUIRE);

        while (take_one(c)) {
        }
        if (last_round) {
            return NULL;
        }
        sched_yield();
    }
}

static double seconds(void)
{
    struct timespec now;

    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t run_ring(Fixture *f, Consumer *c, void *(*producer)(void *))
{
    pthread_t threads[PRODUCERS], consumer;
    const double start = seconds();
    uint64_t lost = 0;

    *c = (Consumer){ .f = f, .in_order = true };
    for (uint16_t i = 0; i < PRODUCERS; i++) {
        c->producers[i] = (Producer){ .f = f, .id = i };
    }
    pthread_create(&consumer, NULL, consume, c);
    for (uint16_t i = 0; i < PRODUCERS; i++) {
        pthread_create(&threads[i], NULL, producer, &c->producers[i]);
    }
    for (unsigned i = 0; i < PRODUCERS; i++) {
        pthread_join(threads[i], NULL);
        lost += c->producers[i].lost;
    }
    __atomic_store_n(&c->finish, true, __ATOMIC_RELEASE);
    pthread_join(consumer, NULL);
    printf("# %.1f million records a second taken\n",
           (double)c->got / (seconds() - start) / 1e6);
    return lost;
}

static void test_lossy_ring(void)
{
    Fixture f = fixture(0);
    Consumer c;
    const uint64_t lost = run_ring(&f, &c, produce);

    tap_ok(c.in_order, "lossy: records are whole and in each producer's order");
    tap_ok(c.got + lost == PRODUCERS * RECORDS_EACH, "lossy: every record is taken or lost");
    tap_ok(f.rm.shared->dropped == lost, "lossy: `dropped` says how many were lost");
    tap_ok(f.rm.shared->head == c.got, "lossy: a dropped record claims no slot");
    drop_fixture(&f);
}

static void test_lossless_ring(void)
{
    Fixture f = fixture(RMEM_RING_LOSSLESS);
    Consumer c;
    const uint64_t lost = run_ring(&f, &c, produce);

    tap_ok(c.in_order, "lossless: records are whole and in each producer's order");
    tap_ok(!lost && c.got == PRODUCERS * RECORDS_EACH, "lossless: every record is taken");
    drop_fixture(&f);
}

/* Waits until its record is taken, so a ring with more slots than producers is never full. */
static void *produce_one_by_one(void *opaque)
{
    Producer *p = opaque;

    for (uint64_t i = 1; i <= RECORDS_EACH / 10; i++) {
        const RmemRecord rec = { .kind = RMEM_K_ACCEPT, .vcpu = p->id, .gpa = i, .pc = ~i };

        if (!rmem_ring_push(&p->f->rm, &rec)) {
            p->lost++;
            continue;
        }
        while (__atomic_load_n(&p->taken, __ATOMIC_ACQUIRE) != i) {
            sched_yield();
        }
    }
    return NULL;
}

/* A producer reads head and tail at different times, and must not see a full ring. */
static void test_ring_that_is_never_full(void)
{
    Fixture f = fixture(0);
    Consumer c;
    const uint64_t lost = run_ring(&f, &c, produce_one_by_one);

    tap_ok(c.in_order && !lost && !f.rm.shared->dropped, "a ring that has room drops nothing");
    drop_fixture(&f);
}

static void test_nobody_reads(void)
{
    Fixture f = fixture(RMEM_RING_LOSSLESS);
    const RmemRecord rec = { .kind = RMEM_K_ACCEPT };
    const double start = seconds();
    bool all_lost = true;
    double first_wait;

    for (unsigned i = 0; i < CAPACITY; i++) {
        rmem_ring_push(&f.rm, &rec);
    }
    all_lost &= !rmem_ring_push(&f.rm, &rec);
    first_wait = seconds() - start;
    for (unsigned i = 0; i < 1000; i++) {
        all_lost &= !rmem_ring_push(&f.rm, &rec);
    }
    tap_ok(all_lost && f.rm.shared->dropped == 1001, "unread lossless ring drops in the end");
    tap_ok(first_wait >= 0.9, "unread lossless ring is waited for");
    tap_ok(seconds() - start < first_wait + 1, "… once, not for each record");
    f.rm.shared->tail = 1;
    tap_ok(rmem_ring_push(&f.rm, &rec), "a reader that comes back is served again");
    drop_fixture(&f);
}

typedef struct Toucher {
    Fixture *f;
    uint64_t won;
    bool sane;
} Toucher;

static void *touch_all(void *opaque)
{
    Toucher *t = opaque;

    for (uint64_t page = 0; page < PAGES; page++) {
        const RmemState found = rmem_touch(&t->f->rm, page);

        t->won += found == RMEM_PENDING;
        t->sane &= found == RMEM_PENDING || found == RMEM_PRIVATE;
        t->sane &= rmem_state(&t->f->rm, page) == RMEM_PRIVATE;
    }
    return NULL;
}

static void test_first_touch(void)
{
    Fixture f = fixture(0);
    Toucher touchers[TOUCHERS];
    pthread_t threads[TOUCHERS];
    uint64_t won = 0;
    bool sane = true;

    for (unsigned i = 0; i < TOUCHERS; i++) {
        touchers[i] = (Toucher){ .f = &f, .sane = true };
        pthread_create(&threads[i], NULL, touch_all, &touchers[i]);
    }
    for (unsigned i = 0; i < TOUCHERS; i++) {
        pthread_join(threads[i], NULL);
        won += touchers[i].won;
        sane &= touchers[i].sane;
    }
    tap_ok(sane, "touch: the page is private when the call returns");
    tap_ok(won == PAGES, "touch: one thread accepts each page");
    tap_ok(f.rm.shared->counters[RMEM_C_ACCEPTED] == PAGES, "touch: each is counted once");
    tap_ok(f.rm.shared->pages[RMEM_PENDING] == 0 &&
           f.rm.shared->pages[RMEM_PRIVATE] == PAGES, "touch: pages by state follow");
    drop_fixture(&f);
}

static void *watch_states(void *opaque)
{
    Toucher *t = opaque;

    while (!__atomic_load_n(&t->won, __ATOMIC_ACQUIRE)) {
        for (uint64_t page = 0; page < PAGES; page += 7) {
            const RmemState state = rmem_state(&t->f->rm, page);

            t->sane &= state == RMEM_PENDING || state == RMEM_SHARED;
        }
    }
    return NULL;
}

static void test_readers_of_changes(void)
{
    Fixture f = fixture(0);
    Toucher reader = { .f = &f, .sane = true };
    pthread_t thread;

    pthread_create(&thread, NULL, watch_states, &reader);
    for (unsigned i = 0; i < 200; i++) {
        rmem_apply(&f.rm, 3, PAGES - 5, RMEM_TO_SHARED, NULL, NULL, NULL);
        rmem_apply(&f.rm, 3, PAGES - 5, RMEM_TO_PRIVATE, NULL, NULL, NULL);
        rmem_apply(&f.rm, 0, PAGES, RMEM_TO_SHARED, NULL, NULL, NULL);
        rmem_reset(&f.rm);
    }
    __atomic_store_n(&reader.won, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    tap_ok(reader.sane, "readers see the old state or the new one");
    drop_fixture(&f);
}

typedef struct Sharer {
    Fixture *f;
    uint64_t shared, unshared;
} Sharer;

/* A device under policy share, while guest CPUs touch the same pages. */
static void *share_and_back(void *opaque)
{
    Sharer *s = opaque;
    RmemState old;

    for (uint64_t page = 0; page < PAGES; page++) {
        rmem_apply_page(&s->f->rm, page, RMEM_TO_SHARED, &old);
        s->shared += old != RMEM_SHARED;
        if (page % 2) {
            rmem_apply_page(&s->f->rm, page, RMEM_TO_PRIVATE, &old);
            s->unshared += old == RMEM_SHARED;
        }
    }
    return NULL;
}

static bool counts_match_table(const Fixture *f)
{
    int64_t pages[RMEM_STATES] = { 0 };

    for (uint64_t page = 0; page < PAGES; page++) {
        pages[rmem_state(&f->rm, page)]++;
    }
    return memcmp(pages, f->rm.shared->pages, sizeof(pages)) == 0;
}

static void test_single_page_steps(void)
{
    Fixture f = fixture(0);
    Sharer sharers[2] = { { .f = &f }, { .f = &f } };
    Toucher toucher = { .f = &f };
    pthread_t threads[3];
    const uint64_t *counters = f.rm.shared->counters;

    pthread_create(&threads[0], NULL, share_and_back, &sharers[0]);
    pthread_create(&threads[1], NULL, share_and_back, &sharers[1]);
    pthread_create(&threads[2], NULL, touch_all, &toucher);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    tap_ok(counts_match_table(&f), "single steps: pages by state follow the table");
    tap_ok(counters[RMEM_C_TO_SHARED] == sharers[0].shared + sharers[1].shared &&
           counters[RMEM_C_TO_PRIVATE] == sharers[0].unshared + sharers[1].unshared &&
           counters[RMEM_C_ACCEPTED] == toucher.won,
           "single steps: what callers saw themselves do is what is counted");
    drop_fixture(&f);
}

int main(void)
{
    test_lossy_ring();
    test_lossless_ring();
    test_ring_that_is_never_full();
    test_nobody_reads();
    test_first_touch();
    test_readers_of_changes();
    test_single_page_steps();
    return tap_done();
}
