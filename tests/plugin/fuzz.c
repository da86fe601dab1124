/*
 * Feed the core random input: the bytes are a table size, a ring size and a
 * history. After each step the table and the header must still agree.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As a test it runs fixed seeds for at most a few seconds; compiled with
 * -DRMEM_LIBFUZZER it is a target for clang's libFuzzer.
 */

#include "rmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAGES 300
#define MAX_RECORDS 16

typedef struct Bytes {
    const uint8_t *at;
    size_t left;
} Bytes;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t next_byte(Bytes *in)
{
    if (!in->left) {
        return 0;
    }
    in->left--;
    return *in->at++;
}

/* Mostly inside the table, sometimes near its end or far outside. */
static uint64_t next_number(Bytes *in, uint64_t pages)
{
    const uint8_t how = next_byte(in);
    const uint64_t value = next_byte(in) | (uint64_t)next_byte(in) << 8;

    switch (how & 7) {
    case 0:
        return UINT64_MAX - (value & 3);
    case 1:
        return pages + (value & 3) - 1;
    case 2:
        return value << 48;
    default:
        return value % (pages + 1);
    }
}

static void require(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

static void require_consistent(const Rmem *rm)
{
    int64_t pages[RMEM_STATES] = { 0 };
    RmemRun run;

    for (uint64_t page = 0; page < rm->pages; page++) {
        pages[rm->table[page] & RMEM_STATE_MASK]++;
    }
    require(memcmp(pages, rm->shared->pages, sizeof(pages)) == 0,
            "pages by state differ from the table");
    for (uint64_t at = 0; at < rm->pages; at += run.count) {
        run = rmem_run_at(rm, at, UINT64_MAX);
        require(run.first == at && run.count && run.count <= rm->pages - at,
                "runs do not tile the table");
        require(at + run.count == rm->pages ||
                rmem_state(rm, at + run.count) != run.state, "a run is too short");
        for (uint64_t page = at; page < at + run.count; page++) {
            require(rmem_state(rm, page) == run.state, "a run is not of one state");
        }
    }
}

typedef struct Seen {
    uint64_t at, end;
} Seen;

static void see_run(void *opaque, RmemRun run, RmemState to)
{
    Seen *seen = opaque;

    require(run.first == seen->at && run.count && run.count <= seen->end - run.first,
            "changes reported out of order");
    require(run.state < RMEM_STATES && to < RMEM_STATES, "no such state");
    seen->at += run.count;
}

static void apply_event(Rmem *rm, Bytes *in)
{
    const uint64_t first = next_number(in, rm->pages);
    const uint64_t count = next_number(in, rm->pages);
    const RmemEvent event = (RmemEvent)(next_byte(in) % (RMEM_EVENTS + 2));
    const bool inside = first <= rm->pages && count <= rm->pages - first;
    Seen seen = { first, first + count };
    uint8_t before[MAX_PAGES];
    uint64_t bad = UINT64_MAX - 7;
    RmemRefusal refusal, foretold;

    memcpy(before, rm->table, rm->pages);
    foretold = rmem_check(rm, first, count, event, NULL);
    refusal = rmem_apply(rm, first, count, event, see_run, &seen, &bad);
    require(refusal == foretold, "check and apply disagree");
    if (refusal == RMEM_OK) {
        require(inside && event < RMEM_EVENTS, "applied out of range");
        require(seen.at == seen.end, "part of the range was not reported");
        return;
    }
    require((refusal == RMEM_OUT_OF_RANGE) == !(inside && event < RMEM_EVENTS),
            "out of range or not");
    require(memcmp(before, rm->table, rm->pages) == 0, "a refusal changed the table");
    require(seen.at == first, "a refusal reported a change");
    require(refusal == RMEM_OUT_OF_RANGE || (bad >= first && bad < first + count),
            "the page that refuses is not in the range");
}

/* A consumer that writes anything to the shared header. */
static void push_record(Rmem *rm, Bytes *in)
{
    const uint64_t dropped = rm->shared->dropped;
    const RmemRecord rec = { .kind = RMEM_K_ACCEPT, .gpa = next_byte(in) };

    if (next_byte(in) & 1) {
        rm->shared->tail = next_number(in, rm->shared->head);
    }
    require(rmem_ring_push(rm, &rec) == (rm->shared->dropped == dropped),
            "`dropped` does not tell what push told");
}

static void apply_page(Rmem *rm, Bytes *in)
{
    const uint64_t page = next_number(in, rm->pages);
    const RmemEvent event = (RmemEvent)(next_byte(in) % (RMEM_EVENTS + 2));
    const RmemRefusal foretold = rmem_check(rm, page, 1, event, NULL);
    const RmemState before = page < rm->pages ? rmem_state(rm, page) : RMEM_PENDING;
    RmemState old;

    require(rmem_apply_page(rm, page, event, &old) == foretold,
            "check and apply_page disagree");
    require(foretold == RMEM_OUT_OF_RANGE || old == before, "apply_page found another state");
    require(foretold == RMEM_OK || page >= rm->pages || rmem_state(rm, page) == before,
            "a refusal changed a page");
}

static void step(Rmem *rm, Bytes *in)
{
    const uint64_t page = next_number(in, rm->pages) % rm->pages;

    switch (next_byte(in) % 8) {
    case 0:
        rmem_touch(rm, page);
        break;
    case 1:
        push_record(rm, in);
        break;
    case 2:
        if (next_byte(in) < 16) {
            rmem_reset(rm);
        }
        break;
    case 3:
        rmem_run_at(rm, next_number(in, rm->pages), next_number(in, rm->pages));
        break;
    case 4:
        apply_page(rm, in);
        break;
    default:
        apply_event(rm, in);
    }
}

/* Maps of exactly the needed size, so that ASan sees an access beyond them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Bytes in = { data, size };
    const uint64_t pages = next_byte(&in) * 2u % MAX_PAGES;
    const size_t records = next_byte(&in) % (MAX_RECORDS + 1);
    const size_t ring_bytes = RMEM_RECORDS_OFFSET + records * sizeof(RmemRecord)
                              - (next_byte(&in) == 0);
    const RmemProfile *profile = rmem_profile_at(next_byte(&in) % 3);
    uint8_t *table = calloc(1, pages + 1);
    void *ring = calloc(1, ring_bytes);
    const bool possible = profile && pages && records >= 2 && !(records & (records - 1))
                          && ring_bytes % sizeof(RmemRecord) == 0;
    Rmem rm;
    const char *fault;

    table = realloc(table, pages ? pages : 1);
    fault = rmem_init(&rm, profile, ring, ring_bytes, table, pages, -1, 0);
    require(possible == !fault, "init takes what it must refuse, or the reverse");
    while (!fault && in.left) {
        step(&rm, &in);
        require_consistent(&rm);
    }
    free(table);
    free(ring);
    return 0;
}

#ifndef RMEM_LIBFUZZER

#include "tap.h"

#include <time.h>

#define INPUTS 20000
#define INPUT_BYTES 256
#define SECONDS 5

static uint64_t xorshift(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

int main(void)
{
    const time_t end = time(NULL) + SECONDS;
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    uint8_t input[INPUT_BYTES];
    unsigned i;

    for (i = 0; i < INPUTS && time(NULL) < end; i++) {
        for (size_t byte = 0; byte < sizeof(input); byte++) {
            input[byte] = (uint8_t)(xorshift(&state) >> 24);
        }
        /* Most random sizes would be refused: choose mostly valid ones. */
        if (i % 8) {
            input[1] = (uint8_t)(2u << (i % 4));
            input[2] = 1;
            input[3] = (uint8_t)(i % 2);
        }
        LLVMFuzzerTestOneInput(input, xorshift(&state) % sizeof(input));
    }
    printf("# %u inputs\n", i);
    tap_ok(i > 0, "no input breaks the core");
    return tap_done();
}

#endif
