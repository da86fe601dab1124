/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>

#define PAGE    4096

struct fault {
    uint64_t esr, elr, far;
};
extern struct fault fault;

// boot.S
int guard(void (*function)(void *), void *argument);
void call_smc(void *x);
void call_hvc(void *x);

// map.c: page tables. Entries of 1 GiB, but for the 2 MiB at `area`, whose table
// of pages is at `table`; `bit` is the address bit of a second map of it all.
void map(uint64_t table, uint64_t area, uint64_t bit);

// device.c: a DMA of the edu device; `bit` is the address bit of devices. False:
// there is no such device.
int edu_dma(uint64_t bit, uint64_t from, uint64_t to, uint64_t size);

#endif
