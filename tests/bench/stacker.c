/*
 * Put stack windows into their file, as records of a busy guest would:
 * stacker STACKS_FD WINDOWS, prints nanoseconds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "stacks.h"

#define CODE UINT64_C(0xffffffff81000000)
#define SP   UINT64_C(0xffffc90000013000)
#define CHAINS 512              /* different ones */

/* A stack as Linux leaves it: a fifth is code, a tenth is the stack itself. */
static void fill(uint64_t *words, unsigned chain)
{
    for (unsigned i = 0; i < RMEM_STACK_WORDS; i++) {
        const unsigned kind = (i * 7 + 3) % 10;

        words[i] = kind < 2 ? CODE + (uint64_t)i * 4096 + chain * 16
                   : kind < 3 ? SP + i * 8 : i * UINT64_C(0x9e3779b97f4a7c15) >> 8;
    }
}

int main(int argc, char **argv)
{
    static RmemStacks st;
    static uint64_t stacks[CHAINS][RMEM_STACK_WORDS];
    int fd = argc > 2 ? atoi(argv[1]) : -1;
    unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    void *map = mmap(NULL, RMEM_STACKS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const char *problem = map == MAP_FAILED ? "no map" : rmem_stacks_init(&st, map, RMEM_STACKS_BYTES);
    struct timespec from, to;
    unsigned long kept = 0;

    if (problem) {
        fprintf(stderr, "%s\n", problem);
        return 2;
    }
    for (unsigned chain = 0; chain < CHAINS; chain++) {
        fill(stacks[chain], chain);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (unsigned long i = 0; i < count; i++) {
        RmemStackInput in = {
            .pc = CODE, .sp = SP, .fp = SP + 64, .code_start = CODE,
            .code_end = CODE + (UINT64_C(1) << 30),
            .piece = { stacks[i % CHAINS] }, .words = { RMEM_STACK_WORDS },
        };

        kept += rmem_stack_put(&st, &in) != 0;
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    printf("%lld\n", (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec);
    return kept == count ? 0 : 1;
}
