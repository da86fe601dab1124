// SPDX-License-Identifier: GPL-2.0-or-later
// Hostile save areas (VMSA) of an SNP guest: half of one that runs, the rest random. AMD64
// Programmer's Manual, volume 2, appendix B.

#include "attack.h"

#define SAVE_AREA_BYTES 0x670
#define RMP_VALIDATED 1
#define RMP_VMSA (1ull << 16 | 1)       // of VMPL 1, as the APM asks

struct field {
    uint16_t offset;
    bool needed;                        // without it, the host refuses the save area
    uint64_t value;
};

// Of a CPU in 64-bit mode that shares our page tables. EFER has SVME; the features are SNP's.
static const struct field fields[] = {
    { 0x0c8, true, 0 },                 // VMPL and CPL
    { 0x0d0, true, 0x1500 },            // EFER
    { 0x3b0, true, 1 },                 // SEV features
    { 0x010, false, 0xffffffff0a9b0008 },   // CS: limit, attributes, selector
    { 0x018, false, 0 },                // its base
    { 0x020, false, 0xffffffff0c930010 },   // SS
    { 0x148, false, 0x60 },             // CR4
    { 0x158, false, 0x80010031 },       // CR0
    { 0x168, false, 0xffff0ff0 },       // DR6
    { 0x170, false, 2 },                // RFLAGS
    { 0x268, false, 0x0007040600070406 },   // PAT
    { 0x3e8, false, 1 },                // XCR0
    { 0x408, false, 0x1f80 },           // MXCSR
};

static uint64_t read_cr3(void)
{
    uint64_t value;

    __asm__ volatile("mov %%cr3, %0" : "=r"(value));
    return value;
}

static int put_area(struct attack *attack, struct fault *fault)
{
    bool mostly = attack_below(attack, 2);
    int vector = 0;

    for (uint64_t at = 0; at < SAVE_AREA_BYTES && !vector; at += 8) {
        vector = probe_write64(ATTACK_VMSA + at, attack_operand(attack), fault);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(fields) && !vector; i++) {
        if (attack_below(attack, fields[i].needed ? 32 : mostly ? 16 : 2)) {
            vector = probe_write64(ATTACK_VMSA + fields[i].offset, fields[i].value, fault);
        }
    }
    if (!vector && attack_below(attack, mostly ? 16 : 2)) {
        vector = probe_write64(ATTACK_VMSA + 0x150, read_cr3(), fault);
    }
    return vector;
}

int attack_make_vmsa(struct attack *attack, struct fault *fault)
{
    uint64_t validate[4] = { ATTACK_VMSA, 0, RMP_VALIDATED }, restore[4] = { ATTACK_VMSA, 0, 1 };
    uint64_t adjust[4] = { ATTACK_VMSA, 0, RMP_VMSA };
    int vector = probe_pvalidate(validate, fault);

    vector = vector ? vector : probe_rmpadjust(restore, fault);
    vector = vector ? vector : put_area(attack, fault);
    return vector ? vector : probe_rmpadjust(adjust, fault);
}
