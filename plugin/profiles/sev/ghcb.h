/*
 * SEV-ES, SEV-SNP: one VMGEXIT, and its GHCB page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_GHCB_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_GHCB_H

#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/sev/guest.h"

/* One VMGEXIT. */
typedef struct SevExit {
    SevGuest *sev;
    SevVcpu *vcpu;
    CPUState *cpu;
    CPUX86State *env;
    uint8_t *ghcb;                  /* page, or NULL: the MSR protocol */
    uint64_t gpa;                   /* of that page */
    uint64_t code, info1, info2;
    uint64_t out1, out2;            /* exit infos for the guest */
    int length;
    uintptr_t ra;
} SevExit;

/* GHCB, "GHCB Layout": the offsets that are used */
enum {
    GHCB_CPL = 0x0cb, GHCB_XSS = 0x140, GHCB_DR7 = 0x160, GHCB_RAX = 0x1f8,
    GHCB_RCX = 0x308, GHCB_RDX = 0x310, GHCB_RBX = 0x318, GHCB_RSI = 0x330,
    GHCB_EXIT_CODE = 0x390, GHCB_INFO1 = 0x398, GHCB_INFO2 = 0x3a0,
    GHCB_SCRATCH = 0x3a8, GHCB_XCR0 = 0x3e8, GHCB_VALID = 0x3f0,
    GHCB_SHARED = 0x800, GHCB_SHARED_SIZE = 0x7f0, GHCB_VERSION = 0xffa,
    GHCB_USAGE = 0xffc,
};

/* GHCB, SW_EXITINFO1 and, for malformed input, SW_EXITINFO2 */
enum { GHCB_NO_ACTION, GHCB_ISSUE_EXCEPTION, GHCB_MALFORMED };
enum { GHCB_NOT_REGISTERED = 1, GHCB_INVALID_USAGE, GHCB_INVALID_SCRATCH,
       GHCB_MISSING_INPUT, GHCB_INVALID_INPUT, GHCB_INVALID_EVENT };

void sev_vmgexit(SevGuest *sev, const RestrictedInsn *insn);
bool sev_ghcb_has(const SevExit *exit, unsigned offset);
uint64_t sev_ghcb_get(const SevExit *exit, unsigned offset);
void sev_ghcb_put(SevExit *exit, unsigned offset, uint64_t value);
void sev_malformed(SevExit *exit, uint64_t reason);
/* The scratch area; NULL, and a malformed exit, if it is not shared memory. */
uint8_t *sev_ghcb_scratch(SevExit *exit, uint64_t size);
/* What the GHCB MSR reads as before the guest writes it. */
uint64_t sev_ghcb_msr_information(void);
void sev_ghcb_finish(SevExit *exit);
G_NORETURN void sev_terminate(SevExit *exit, unsigned set, unsigned reason);

#endif
