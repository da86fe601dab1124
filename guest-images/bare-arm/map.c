// SPDX-License-Identifier: GPL-2.0-or-later
// An identity map of the first 4 GiB, and the same again with an address bit.
// Arm Architecture Reference Manual, D8: 4 KiB granule, 48 bits of address.

#include "bare.h"

#define VALID       1ull
#define TABLE       2ull            // or a page, in the last level
#define ACCESSED    (1ull << 10)
#define SHAREABLE   (3ull << 8)
#define ENTRIES     512

static uint64_t root[ENTRIES] __attribute__((aligned(PAGE)));
static uint64_t low[ENTRIES] __attribute__((aligned(PAGE)));
static uint64_t high[ENTRIES] __attribute__((aligned(PAGE)));
static uint64_t blocks[ENTRIES] __attribute__((aligned(PAGE)));

void map(uint64_t table, uint64_t area, uint64_t bit)
{
    const uint64_t flags = VALID | ACCESSED | SHAREABLE;
    uint64_t *pages = (uint64_t *)table;

    for (uint64_t i = 0; i < 4; i++) {
        low[i] = i << 30 | flags;
        high[i] = bit | i << 30 | flags;
    }
    for (uint64_t i = 0; i < ENTRIES; i++) {
        blocks[i] = (area >> 30 << 30) | i << 21 | flags;
        pages[i] = (area >> 21 << 21) | i << 12 | flags | TABLE;
    }
    blocks[area >> 21 & 511] = table | VALID | TABLE;
    low[area >> 30 & 511] = (uint64_t)blocks | VALID | TABLE;
    root[0] = (uint64_t)low | VALID | TABLE;
    if (bit) {
        root[bit >> 39 & 511] = (uint64_t)high | VALID | TABLE;
    }

    __asm__ volatile(
        "msr mair_el1, %0\n"            // type 0: normal memory
        "msr tcr_el1, %1\n"             // T0SZ 16, no TTBR1, inner shareable, 48 bits
        "msr ttbr0_el1, %2\n"
        "isb\n"
        "tlbi vmalle1\n"
        "dsb ish\n"
        "isb\n"
        "mrs x9, sctlr_el1\n"
        "orr x9, x9, #1\n"
        "msr sctlr_el1, x9\n"
        "isb\n"
        : : "r"(0xffull), "r"(5ull << 32 | 1ull << 23 | 3ull << 12 | 16),
            "r"((uint64_t)root)
        : "x9", "memory");
}
