// SPDX-License-Identifier: GPL-2.0-or-later
// Hostile calls that have a grammar: TDCALL with TDVMCALL, the GHCB's MSR
// protocol, the GHCB page. Numbers that end the guest by design are left out
// (HLT, ReportFatalError, termination, AP reset hold): nothing would come after.

#include "attack.h"

#define ALL_REGISTERS 0xffcc
#define MSR_GHCB 0xc0010130
#define TD_SHARED (1ull << 47)
#define PAGE_ACCEPT 6           // a leaf of TDCALL
#define AP_CREATION 0x80000013
#define GUEST_REQUEST 0x80000011

enum { RAX, RCX, RDX, R8, R9, R10, R11, R12, R13, R14, R15, TDCALL_REGISTERS };

static uint64_t one_of(struct attack *attack, const uint64_t *values, unsigned count)
{
    return values[attack_below(attack, count)];
}

// A port that does not stop, reset or power off the machine.
static uint64_t port(struct attack *attack)
{
    static const uint64_t ports[] = { 0x60, 0x70, 0x71, 0x80, 0x3f8, 0x3fd, 0xcf8, 0x1f0, 0x510, 0xffff };

    return one_of(attack, ports, ARRAY_SIZE(ports));
}

static void vmcall_operands(struct attack *attack, uint64_t *regs, struct fault *fault)
{
    static const uint64_t functions[] = {
        10, 30, 31, 32, 48, 0x10000, 0x10001, 0x10001, 0x10001, 0x10002, 0x10004, 0x10005, 65,
    };

    regs[RCX] = attack_below(attack, 8) ? ALL_REGISTERS : attack_random(attack);
    regs[R10] = attack_below(attack, 16) ? 0 : attack_operand(attack);
    regs[R11] = one_of(attack, functions, ARRAY_SIZE(functions));
    switch (regs[R11]) {
    case 30:                                    // I/O: size, direction, port, value
        regs[R12] = 1ull << attack_below(attack, 4);
        regs[R13] = 0;                          // in: a write could reset the machine
        regs[R14] = port(attack);
        break;
    case 32:                                    // WRMSR: not the TSC, not EFER
        regs[R12] = 0x174 + attack_below(attack, 0x300);
        break;
    case 48:                                    // MMIO: size, direction, address, value
        regs[R12] = 1ull << attack_below(attack, 5);
        regs[R13] = attack_below(attack, 2);
        regs[R14] = ATTACK_AREA + attack_below(attack, ATTACK_PAGES * PAGE_BYTES);
        break;
    case 0x10002:                               // GetQuote: the buffer has a header, half-right
        regs[R12] = attack_area_page(attack);
        regs[R13] = PAGE_BYTES << attack_below(attack, 3);
        probe_write64(SHARED_MAP + regs[R12], attack_below(attack, 8) ? 1 : attack_random(attack),
                      fault);
        probe_write64(SHARED_MAP + regs[R12] + 16, attack_below(attack, 2) ? 1024
                      : attack_operand(attack), fault);
        regs[R12] |= attack_below(attack, 16) ? TD_SHARED : 0;
        break;
    case 0x10001:                               // MapGPA: start and size
        regs[R12] = attack_address(attack);
        regs[R13] = attack_below(attack, 8) ? attack_below(attack, ATTACK_LOW_PAGES) * PAGE_BYTES
                                            : attack_below(attack, 1ull << 32);
        if (regs[R12] < ATTACK_AREA) {
            regs[R13] %= ATTACK_LOW_PAGES * PAGE_BYTES;
        }
        break;
    default:
        break;
    }
}

int attack_tdcall(struct attack *attack, struct fault *fault)
{
    uint64_t regs[TDCALL_REGISTERS];

    for (unsigned i = RCX; i < TDCALL_REGISTERS; i++) {
        regs[i] = attack_operand(attack);
    }
    regs[RAX] = attack_below(attack, 3) ? attack_below(attack, 30) : 0;
    if (regs[RAX] == 0) {
        vmcall_operands(attack, regs, fault);
    } else if (regs[RAX] == PAGE_ACCEPT) {
        // The host cannot help a TD that accepts what is no RAM.
        regs[RCX] = attack_area_page(attack) | !attack_below(attack, 64);
    } else if (!attack_below(attack, 16)) {
        regs[RAX] |= attack_operand(attack) << 16;  // another version
    }
    return probe_tdcall(regs, fault);
}

int attack_vmgexit(uint64_t value, struct fault *fault)
{
    uint64_t regs[4] = {0};
    int vector = probe_wrmsr(MSR_GHCB, value, fault);

    return vector ? vector : probe_vmgexit(regs, fault);
}

int attack_ghcb_msr(struct attack *attack, struct fault *fault)
{
    // The first ones are not only SNP's.
    static const uint64_t requests[] = { 0x002, 0x004, 0x080, 0x010, 0x014, 0x014, 0x014 };
    uint64_t request = one_of(attack, requests,
                              attack->kinds & ATTACK_RMP ? ARRAY_SIZE(requests) : 3);

    if (request == 0x014) {                     // page state change: bits 55:52 and 51:12
        return attack_vmgexit((attack_address(attack) & 0xffffffffff000ull) | attack_below(attack, 4) << 52
                       | request, fault);
    }
    return attack_vmgexit((attack_operand(attack) & ~0xfffull) | request, fault);
}

static int put(struct attack *attack, uint64_t offset, uint64_t value, struct fault *fault)
{
    return probe_write64(SHARED_MAP + attack->ghcb + offset, value, fault);
}

// A list of page state changes, half-right.
static int put_changes(struct attack *attack, uint64_t offset, struct fault *fault)
{
    uint64_t entries = attack_below(attack, 8);
    int vector = put(attack, offset, attack_below(attack, 4)
                     | (attack_below(attack, 8) ? entries : attack_random(attack)) << 16, fault);

    for (uint64_t i = 0; i < entries && !vector; i++) {
        vector = put(attack, offset + 8 + 8 * i,
                     (attack_address(attack) & 0xffffffffff000ull) | attack_below(attack, 8) << 52
                     | (uint64_t)!attack_below(attack, 4) << 56 | attack_below(attack, 16), fault);
    }
    return vector;
}

// An INFO1 that is random, or a save area of ours and what the host wants to see beside it.
static void put_creation(struct attack *attack, struct fault *fault)
{
    uint64_t request = attack_below(attack, attack_below(attack, 64) ? 2 : 4);

    if (attack->kinds & ATTACK_RMP && !attack_below(attack, 16)) {
        attack_make_vmsa(attack, fault);
        put(attack, 0x398, 1ull << 32 | 1, fault);
        put(attack, 0x3a0, ATTACK_VMSA, fault);
        put(attack, 0x1f8, 1, fault);           // features
        return;
    }
    put(attack, 0x398, (1 + attack_below(attack, 3)) << 32 | request, fault);
}

static int put_exit(struct attack *attack, uint64_t code, struct fault *fault)
{
    static const uint16_t fields[] = {
        0x1f8, 0x308, 0x310, 0x318, 0x330, 0x338, 0x398, 0x3a0, 0x3a8, 0x3e8, 0x160,
    };
    uint64_t bitmap[2] = { 0, 1ull << (0x390 / 8 - 64) };
    int vector = put(attack, 0x390, code, fault);

    for (unsigned i = 0; i < ARRAY_SIZE(fields) && !vector; i++) {
        unsigned bit = fields[i] / 8;

        vector = put(attack, fields[i], attack_operand(attack), fault);
        if (attack_below(attack, 16)) {
            bitmap[bit / 64] |= 1ull << bit % 64;
        }
    }
    if (code == 0x7b) {                         // port, direction in, size
        put(attack, 0x398, port(attack) << 16 | 1 | 0x10ull << attack_below(attack, 3), fault);
    }
    if (code == AP_CREATION) {                  // never the boot CPU: it would answer no more
        put_creation(attack, fault);
    }
    if (code == GUEST_REQUEST) {                // a request and a response page
        put(attack, 0x398, attack_area_page(attack), fault);
        put(attack, 0x3a0, attack_area_page(attack), fault);
    }
    if (attack_below(attack, 4)) {              // the scratch area is in the page, mostly
        put(attack, 0x3a8, attack->ghcb + 0x800, fault);
    }
    put(attack, 0x3f0, bitmap[0], fault);
    put(attack, 0x3f8, bitmap[1], fault);
    put(attack, 0xff8, (attack_below(attack, 8) ? 2 : attack_random(attack)) << 16
        | (attack_below(attack, 32) ? 0 : attack_random(attack)) << 32, fault);
    return vector;
}

int attack_ghcb_page(struct attack *attack, struct fault *fault)
{
    static const uint64_t codes[] = {
        0x27, 0x37, 0x6e, 0x6f, 0x72, 0x76, 0x7b, 0x7c, 0x81, 0x87, 0x89, 0x8a, 0x8b,
        0x80000001, 0x80000002, 0x80000003, 0x80000005, 0x80000010, 0x80000010, 0x80000010,
        0x80000011, 0x80000012, 0x80000013, 0x80000014, 0x80000017, 0x8000fffd,
    };
    uint64_t code = one_of(attack, codes, ARRAY_SIZE(codes));
    int vector = put_exit(attack, code, fault);

    if (!vector && code == 0x80000010) {
        vector = put_changes(attack, 0x800, fault);
    }
    return vector ? vector : attack_vmgexit(attack->ghcb, fault);
}
