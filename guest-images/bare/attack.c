// SPDX-License-Identifier: GPL-2.0-or-later
// The hostile guest: which call comes next, and the calls that are one
// instruction. attack-calls.c has those with a grammar.

#include "attack.h"

#define TSC_MSR 0x10
#define TSC_ADJUST_MSR 0x3b
#define GHCB_REGISTER 0x012
#define EFER_MSR 0xc0000080u
#define MAP_GPA_RANGE 12                // KVM_HC_MAP_GPA_RANGE

typedef int attack_fn(struct attack *attack, struct fault *fault);

uint64_t attack_random(struct attack *attack)
{
    uint64_t x = attack->random;

    x ^= x >> 12;                   // xorshift64*
    x ^= x << 25;
    x ^= x >> 27;
    attack->random = x;
    return x * 0x2545f4914f6cdd1dull;
}

uint64_t attack_below(struct attack *attack, uint64_t limit)
{
    return (attack_random(attack) >> 11) % limit;
}

uint64_t attack_area_page(struct attack *attack)
{
    return ATTACK_AREA + attack_below(attack, ATTACK_PAGES) * PAGE_BYTES;
}

// An address of the area in most cases; never one of the guest's image.
uint64_t attack_address(struct attack *attack)
{
    static const uint64_t places[] = {
        0xa0000, 0xc0000, 0xf0000, 0xfec00000, 0xfed00000, 0xfee00000, 0xffc00000,
        0xfffff000, 0x4000000, 0x3fff000, 0x100000000, 0xfffffff000, 0x7fffffffff000,
        0xffffffffff000, 0xfffffffffffff000, 0x8000000000000000,
    };
    uint64_t address;

    switch (attack_below(attack, 10)) {
    case 0:
        address = places[attack_below(attack, ARRAY_SIZE(places))];
        break;
    case 1:
        address = 0x4000000 + attack_random(attack) % (1ull << 52);
        break;
    default:
        address = attack_area_page(attack);
    }
    switch (attack_below(attack, 8)) {
    case 0:
        return address + attack_below(attack, PAGE_BYTES);
    case 1:
        return address ^ 1ull << 47;
    case 2:
        return address ^ 1ull << 51;
    default:
        return address;
    }
}

uint64_t attack_operand(struct attack *attack)
{
    switch (attack_below(attack, 6)) {
    case 0:
        return attack_random(attack);
    case 1:
        return attack_below(attack, 8);
    case 2:
        return 1ull << attack_below(attack, 64);
    case 3:
        return attack_below(attack, 64) * PAGE_BYTES;
    default:
        return attack_address(attack);
    }
}

static int attack_rmp(struct attack *attack, struct fault *fault)
{
    uint64_t regs[4] = { attack_address(attack), attack_below(attack, 4), attack_below(attack, 4) };

    switch (attack_below(attack, 3)) {
    case 0:
        return probe_pvalidate(regs, fault);
    case 1:
        regs[2] = attack_operand(attack);
        return probe_rmpadjust(regs, fault);
    default:
        return probe_rmpquery(regs, fault);
    }
}

// An MSR that a kernel uses, one of the hypervisor's, or any. The attack goes on without its own
// clock, EFER and GHCB being changed.
static int attack_msr(struct attack *attack, struct fault *fault)
{
    static const uint32_t bases[] = {
        0, 0x170, 0x200, 0x400, 0x6e0, 0x800, 0xd90, 0x40000000, 0x4b564d00, 0xc0000080,
        0xc0010000, 0xc0010110, 0xc0010130, 0xc001f000,
    };
    uint32_t index = (uint32_t)attack_random(attack);
    uint64_t value;

    if (attack_below(attack, 8)) {
        index = bases[attack_below(attack, ARRAY_SIZE(bases))] + (uint32_t)attack_below(attack, 64);
    }
    if (attack_below(attack, 2)) {
        return probe_rdmsr(index, &value, fault);
    }
    if (index == TSC_MSR || index == TSC_ADJUST_MSR || index == EFER_MSR || index == 0xc0010130
        || (index >= 0x800 && index < 0x840) || index == 0x1b) {
        return 0;
    }
    return probe_wrmsr(index, attack_operand(attack), fault);
}

static int attack_cpuid(struct attack *attack, struct fault *fault)
{
    static const uint32_t bases[] = { 0, 0x40000000, 0x80000000, 0xffffffe0 };
    uint64_t regs[4] = {
        bases[attack_below(attack, ARRAY_SIZE(bases))] + attack_below(attack, 0x30), 0,
        attack_below(attack, 4), 0,
    };

    return probe_cpuid(regs, fault);
}

// By load, store and locked add.
static int attack_memory(struct attack *attack, struct fault *fault)
{
    uint64_t value = attack_random(attack);
    uint64_t gpa = ATTACK_AREA + attack_below(attack, ATTACK_PAGES * PAGE_BYTES - 8);

    if (attack_below(attack, 2)) {
        gpa += SHARED_MAP;
    }
    switch (attack_below(attack, 3)) {
    case 0:
        return probe_read64(gpa, &value, fault);
    case 1:
        return probe_write64(gpa, value, fault);
    default:
        return probe_add64(gpa, &value, fault);
    }
}

// Only loads: a store may reset the machine.
static int attack_mmio(struct attack *attack, struct fault *fault)
{
    uint64_t value;

    return probe_read64(0xfec00000 + (attack_below(attack, 0x300000) & ~7ull), &value, fault);
}

static int attack_hypercall(struct attack *attack, struct fault *fault)
{
    uint64_t args[5] = { attack_below(attack, 16), 0, 0, 0, 0 }, value;

    for (unsigned i = 1; i < ARRAY_SIZE(args); i++) {
        args[i] = attack_operand(attack);
    }
    if (args[0] == MAP_GPA_RANGE) {             // address, pages, attributes
        args[1] = attack_address(attack);
        args[2] = attack_below(attack, ATTACK_LOW_PAGES);
        args[3] = attack_below(attack, 8) ? attack_below(attack, 2) << 4 : args[3];
    }
    return attack_below(attack, 2) ? probe_vmcall(args, &value, fault)
                                   : probe_vmmcall(args, &value, fault);
}

// In the order of enum attack_kind.
static attack_fn *const calls[] = {
    attack_tdcall, attack_ghcb_msr, attack_ghcb_page, attack_rmp,
    attack_msr, attack_cpuid, attack_memory, attack_hypercall,
    attack_mmio,
};

void attack_start(struct attack *attack, uint64_t seed, uint64_t kinds, unsigned cpu)
{
    *attack = (struct attack) {
        .random = (seed ^ (uint64_t)cpu << 32) | 1ull << 63,
        .kinds = kinds,
        .ghcb = ATTACK_GHCB + cpu * PAGE_BYTES,
    };
}

// The host ends an SNP guest that uses a GHCB which is not registered.
void attack_begin(const struct attack *attack)
{
    struct fault fault;

    if (attack->kinds & ATTACK_GHCB_PAGE && attack->kinds & ATTACK_RMP) {
        attack_vmgexit(attack->ghcb | GHCB_REGISTER, &fault);
    }
}

void attack_once(struct attack *attack)
{
    struct fault fault = {0};
    uint64_t kind;

    do {
        kind = attack_below(attack, ARRAY_SIZE(calls));
    } while (!(attack->kinds & 1ull << kind));
    attack->calls++;
    attack->faults += calls[kind](attack, &fault) != 0;
}

// Answers calls, exceptions, and whether the second CPU was lost: an AP destruction ends it.
void do_attack(const uint64_t *arg)
{
    const uint64_t seed = arg[0], count = arg[1], kinds = arg[2], both = arg[3];
    static struct attack mine, other;
    bool lost;

    if (!(kinds & ((1u << ARRAY_SIZE(calls)) - 1))) {
        answer_error("no such kinds");
        return;
    }
    attack_start(&mine, seed, kinds, 0);
    attack_start(&other, seed, kinds, 1);
    if (both) {
        ap_attack(&other, count);
    }
    attack_begin(&mine);
    while (mine.calls < count) {
        attack_once(&mine);
    }
    lost = both && !ap_attack_ended(&other);
    answer_ok(3, (const uint64_t[]) { mine.calls + other.calls, mine.faults + other.faults, lost });
}
