/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A hostile guest: random and half-right calls of the guest interfaces. The
 * same seed makes the same calls.
 */
#ifndef ATTACK_H
#define ATTACK_H

#include "bare.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof(*(array)))

/* What the attack command may do; its argument KINDS is a sum of these. */
enum attack_kind {
    ATTACK_TDCALL = 1 << 0,
    ATTACK_GHCB_MSR = 1 << 1,       /* VMGEXIT by the MSR protocol */
    ATTACK_GHCB_PAGE = 1 << 2,      /* VMGEXIT by the page at ATTACK_GHCB */
    ATTACK_RMP = 1 << 3,            /* PVALIDATE, RMPADJUST, RMPQUERY: an SNP guest */
    ATTACK_MSR = 1 << 4,
    ATTACK_CPUID = 1 << 5,
    ATTACK_MEMORY = 1 << 6,         /* RAM, private and shared */
    ATTACK_HYPERCALL = 1 << 7,      /* VMCALL, VMMCALL */
    ATTACK_MMIO = 1 << 8,           /* loads of devices, without asking the host */
};

#define ATTACK_AREA 0x2000000ull    /* RAM that nobody else uses */
#define ATTACK_PAGES 256ull
#define ATTACK_LOW_PAGES 16ull      /* from any low address of ours, this far is not our image */
#define ATTACK_GHCB 0x2800000ull    /* the GHCB of CPU 0; the next page is that of CPU 1 */
#define ATTACK_VMSA 0x2802000ull    /* a save area, not at a boundary of 2 MiB */

struct attack {
    uint64_t random;                /* state of the generator; never 0 */
    uint64_t kinds;
    uint64_t ghcb;                  /* GPA of this CPU's GHCB */
    uint64_t calls, faults;
};

/* attack_begin() runs on the CPU that attacks. */
void attack_start(struct attack *attack, uint64_t seed, uint64_t kinds, unsigned cpu);
void attack_begin(const struct attack *attack);
void attack_once(struct attack *attack);

/* attack-calls.c: one call each; returns the vector of an exception, or 0. */
uint64_t attack_random(struct attack *attack);
uint64_t attack_below(struct attack *attack, uint64_t limit);
uint64_t attack_area_page(struct attack *attack);
uint64_t attack_address(struct attack *attack);
uint64_t attack_operand(struct attack *attack);
int attack_vmgexit(uint64_t value, struct fault *fault);
int attack_tdcall(struct attack *attack, struct fault *fault);
int attack_ghcb_msr(struct attack *attack, struct fault *fault);
int attack_ghcb_page(struct attack *attack, struct fault *fault);

/* attack-vmsa.c: puts a hostile save area at ATTACK_VMSA. */
int attack_make_vmsa(struct attack *attack, struct fault *fault);

#endif
