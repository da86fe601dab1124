/*
 * SEV-SNP: the save area of a vCPU at the launch, for the launch digest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 2, 14.1.3 "Processor Initialization State", and what KVM sets
 * besides: EFER.SVME and CR4.MCE. The vCPUs here begin with QEMU's state, which
 * is the same but for these two, of which a guest sees nothing.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/sev/vmsa.h"

#define RESET_DR6   0xffff0ff0
#define RESET_PAT   UINT64_C(0x0007040600070406)

/* Attributes as in a VMCB: a table has none. */
static const struct {
    uint16_t offset, attributes;
} segments[] = {
    { VMSA_ES, 0x93 }, { VMSA_CS, 0x9b }, { VMSA_SS, 0x93 }, { VMSA_DS, 0x93 },
    { VMSA_FS, 0x93 }, { VMSA_GS, 0x93 }, { VMSA_GDTR, 0 }, { VMSA_LDTR, 0x82 },
    { VMSA_IDTR, 0 }, { VMSA_TR, 0x8b },
};

static const struct {
    uint16_t offset;
    uint64_t value;
} registers[] = {
    { VMSA_EFER, MSR_EFER_SVME }, { VMSA_CR4, CR4_MCE_MASK },
    { VMSA_CR0, CR0_ET_MASK }, { VMSA_DR7, DR7_FIXED_1 },
    { VMSA_DR6, RESET_DR6 }, { VMSA_RFLAGS, 2 }, { VMSA_PAT, RESET_PAT },
    { VMSA_XCR0, XSTATE_FP_MASK }, { VMSA_MXCSR, 0x1f80 }, { VMSA_FCW, 0x37f },
};

void sev_vmsa_at_launch(const SevGuest *sev, uint8_t *page, uint32_t start)
{
    memset(page, 0, RMEM_PAGE_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(segments); i++) {
        stw_le_p(page + segments[i].offset + 2, segments[i].attributes);
        stl_le_p(page + segments[i].offset + 4, 0xffff);
    }
    stw_le_p(page + VMSA_CS, 0xf000);
    stq_le_p(page + VMSA_CS + 8, start & 0xffff0000);
    for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
        stq_le_p(page + registers[i].offset, registers[i].value);
    }
    stq_le_p(page + VMSA_RIP, start & 0xffff);
    stq_le_p(page + VMSA_RDX, cpu_env(first_cpu)->cpuid_version);
    stq_le_p(page + VMSA_FEATURES, sev_status(sev) >> 2);
}
