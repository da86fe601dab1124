/*
 * SEV-ES, SEV-SNP: the save area of a vCPU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_VMSA_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_VMSA_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* APM, volume 2, appendix B, "VMSA Layout" */
enum {
    VMSA_ES = 0x000, VMSA_CS = 0x010, VMSA_SS = 0x020, VMSA_DS = 0x030,
    VMSA_FS = 0x040, VMSA_GS = 0x050, VMSA_GDTR = 0x060, VMSA_LDTR = 0x070,
    VMSA_IDTR = 0x080, VMSA_TR = 0x090, VMSA_VMPL = 0x0ca, VMSA_EFER = 0x0d0,
    VMSA_CR4 = 0x148, VMSA_CR3 = 0x150, VMSA_CR0 = 0x158, VMSA_DR7 = 0x160,
    VMSA_DR6 = 0x168, VMSA_RFLAGS = 0x170, VMSA_RIP = 0x178, VMSA_RSP = 0x1d8,
    VMSA_RAX = 0x1f8, VMSA_PAT = 0x268, VMSA_RCX = 0x308, VMSA_RDX = 0x310,
    VMSA_FEATURES = 0x3b0, VMSA_XCR0 = 0x3e8, VMSA_MXCSR = 0x408,
    VMSA_FCW = 0x410,
};

/* Fill @page with a vCPU as QEMU with KVM launches it, to begin at @start. */
void sev_vmsa_at_launch(const SevGuest *sev, uint8_t *page, uint32_t start);

#endif
