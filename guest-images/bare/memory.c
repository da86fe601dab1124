// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that access guest RAM. Every access is a probe, so it may fault.

#include "bare.h"

#define GOLDEN 0x9e3779b97f4a7c15ull
#define WORDS_PER_PAGE (PAGE_BYTES / 8)
#define MAX_LOOP_PAGES 4096

extern const uint64_t exec_stub;        // probe.S: one word of code

#define PDE_2M 0x83
#define PDE_TABLE 0x03
#define ENTRIES 512

extern uint64_t root_table[ENTRIES];    // boot.S

static uint64_t shared_pointers[ENTRIES] __attribute__((aligned(PAGE_BYTES)));
static uint64_t shared_directory[ENTRIES] __attribute__((aligned(PAGE_BYTES)));

bool mapped(uint64_t gpa, uint64_t bytes)
{
    uint64_t shared = gpa - SHARED_MAP;

    if ((gpa < MAP_LIMIT && bytes <= MAP_LIMIT - gpa)
        || (shared_directory[0] && shared < 1ull << 30 && bytes <= (1ull << 30) - shared)) {
        return true;
    }
    answer_error("the range is beyond the identity map");
    return false;
}

// Maps the first GiB again at SHARED_MAP, with address bit arg[0] set in each entry. 0 sets no bit.
void map_shared(uint64_t bits)
{
    for (uint64_t i = 0; i < ENTRIES; i++) {
        shared_directory[i] = i << 21 | bits | PDE_2M;
    }
    shared_pointers[0] = ((uint64_t)shared_directory - KERNEL_BASE) | PDE_TABLE;
    root_table[SHARED_MAP >> 39] = ((uint64_t)shared_pointers - KERNEL_BASE) | PDE_TABLE;
    __asm__ volatile("mov %%cr3, %%rax\n\tmov %%rax, %%cr3" : : : "rax", "memory");
}

void do_map_shared(const uint64_t *arg)
{
    if (arg[0] && (arg[0] < 40 || arg[0] > 51)) {
        answer_error("the bit must be 0, or 28 to 33 (hexadecimal)");
        return;
    }
    map_shared(arg[0] ? 1ull << arg[0] : 0);
    answer_done();
}

// If the probe at @gpa faulted, answers the fault and returns true.
static bool faulted(int vector, struct fault *fault, uint64_t gpa)
{
    if (vector) {
        fault->gpa = gpa;
        answer_fault(fault);
    }
    return vector;
}

static bool whole_words(uint64_t bytes)
{
    if (bytes % 8) {
        answer_error("the length must be a multiple of 8");
        return false;
    }
    return true;
}

void do_read(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value = 0;

    if (mapped(arg[0], 8)
        && !faulted(probe_read64(arg[0], &value, &fault), &fault, arg[0])) {
        answer_value(value);
    }
}

void do_write(const uint64_t *arg)
{
    struct fault fault = {0};

    if (mapped(arg[0], 8)
        && !faulted(probe_write64(arg[0], arg[1], &fault), &fault, arg[0])) {
        answer_done();
    }
}

void do_add(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value = arg[1];

    if (mapped(arg[0], 8)
        && !faulted(probe_add64(arg[0], &value, &fault), &fault, arg[0])) {
        answer_value(value);
    }
}

void do_fill(const uint64_t *arg)
{
    struct fault fault = {0};
    bool pattern = arg[2] == FILL_PATTERN;

    if (!pattern && arg[2] > 0xff) {
        answer_error("the last argument must be a byte or the word pattern");
        return;
    }
    if (!mapped(arg[0], arg[1]) || !whole_words(arg[1])) {
        return;
    }
    for (uint64_t gpa = arg[0]; gpa < arg[0] + arg[1]; gpa += 8) {
        uint64_t word = pattern ? gpa * GOLDEN : arg[2] * 0x0101010101010101ull;

        if (faulted(probe_write64(gpa, word, &fault), &fault, gpa)) {
            return;
        }
    }
    answer_done();
}

// Sums word i * (2i + 1). The weights make the order of words matter, and a test computes the
// same sum with one line of numpy.
void do_sum(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t sum = 0;

    if (!mapped(arg[0], arg[1]) || !whole_words(arg[1])) {
        return;
    }
    for (uint64_t i = 0; i < arg[1] / 8; i++) {
        uint64_t word = 0, gpa = arg[0] + 8 * i;

        if (faulted(probe_read64(gpa, &word, &fault), &fault, gpa)) {
            return;
        }
        sum += word * (2 * i + 1);
    }
    answer_value(sum);
}

void do_touch(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value;

    if (!mapped(arg[0], arg[1] > MAP_LIMIT / PAGE_BYTES ? UINT64_MAX : arg[1] * PAGE_BYTES)) {
        return;
    }
    for (uint64_t i = 0; i < arg[1]; i++) {
        uint64_t gpa = arg[0] + i * PAGE_BYTES;

        if (faulted(probe_read8(gpa, &value, &fault), &fault, gpa)) {
            return;
        }
    }
    answer_value(arg[1]);
}

void do_exec(const uint64_t *arg)
{
    struct fault fault = {0};

    if (mapped(arg[0], 8)
        && !faulted(probe_write64(arg[0], exec_stub, &fault), &fault, arg[0])) {
        do_call(arg);
    }
}

void do_call(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value = 0;

    if (mapped(arg[0], 8)
        && !faulted(probe_exec(arg[0], &value, &fault), &fault, arg[0])) {
        answer_value(value);
    }
}

// RAX is what the function is called on: zeros there are addb %al, (%rax).
void do_call_on(const uint64_t *arg)
{
    struct fault fault = {0};

    if (mapped(arg[0], 8) && mapped(arg[1], 8)
        && !faulted(probe_exec(arg[0], (uint64_t *)arg[1], &fault), &fault, arg[0])) {
        answer_value(*(uint64_t *)arg[1]);
    }
}

// One pass over one page: writes its pattern, or verifies it and returns the number of wrong words.
static uint64_t visit(uint64_t gpa, uint64_t pass, bool verify, uint64_t *faults)
{
    struct fault fault;
    uint64_t errors = 0;

    for (uint64_t i = 0; i < WORDS_PER_PAGE; i++) {
        uint64_t at = gpa + 8 * i, word = (at + pass) * GOLDEN, found = word;

        if (verify ? probe_read64(at, &found, &fault) : probe_write64(at, word, &fault)) {
            ++*faults;
        } else if (found != word) {
            errors++;
        }
    }
    return errors;
}

enum { PASSES, WRONG_WORDS, FAULTS, FIRST_WRONG, RESULTS };

// Writes all pages, then verifies them.
static void pass_over(const uint64_t *arg, uint64_t result[RESULTS])
{
    for (int verify = 0; verify < 2; verify++) {
        for (uint64_t i = 0; i < arg[1]; i++) {
            uint64_t gpa = arg[0] + i * PAGE_BYTES;
            uint64_t errors = visit(gpa, result[PASSES], verify, &result[FAULTS]);

            if (errors && !result[WRONG_WORDS]) {
                result[FIRST_WRONG] = gpa;
            }
            result[WRONG_WORDS] += errors;
        }
    }
    result[PASSES]++;
}

static bool can_loop(const uint64_t *arg)
{
    if (arg[1] > MAX_LOOP_PAGES) {
        answer_error("too many pages to loop over");
        return false;
    }
    return mapped(arg[0], arg[1] * PAGE_BYTES);
}

// Answers twice: "looping" when it starts; at the end the passes, wrong words, faults and the
// first wrong page.
void do_loop(const uint64_t *arg)
{
    uint64_t result[RESULTS] = {0}, end = ticks() + LOOP_PATIENCE;

    if (!can_loop(arg)) {
        return;
    }
    answer_raw("looping\n");
    while (!byte_waiting(AGENT) && ticks() < end) {
        pass_over(arg, result);
    }
    answer_ok(RESULTS, result);
}

// The same loop for use without a driving test: prints each pass on COM1, and a byte received
// there ends it.
void do_churn(const uint64_t *arg)
{
    uint64_t result[RESULTS] = {0}, end = ticks() + CHURN_PATIENCE;

    if (!can_loop(arg)) {
        return;
    }
    while (!byte_waiting(LOG) && ticks() < end) {
        pass_over(arg, result);
        put_text(LOG, "pass ");
        put_number(LOG, result[PASSES]);
        put_text(LOG, result[WRONG_WORDS] || result[FAULTS] ? " wrong\n" : " right\n");
    }
    if (result[WRONG_WORDS] || result[FAULTS]) {
        answer_error("memory did not keep what was written to it");
    } else {
        answer_ok(RESULTS, result);
    }
}
