/*
 * SEV-SNP: page state changes, by which a guest converts memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, 4.1.6 "SNP Page State Change". A wrong list has the same result as with
 * KVM (snp_begin_psc() and below).
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/profiles/sev/exits.h"
#include "hw/restricted-memory/profiles/sev/memory.h"
#include "hw/restricted-memory/trace.h"

enum { PSC_PRIVATE = 1, PSC_SHARED };

/* SW_EXITINFO2 of a list */
#define PSC_ERROR_GENERIC   (UINT64_C(0x100) << 32)
#define PSC_ERROR_HEADER    (UINT64_C(1) << 32 | 1)
#define PSC_ERROR_ENTRY     (UINT64_C(1) << 32 | 2)

#define PSC_MAX_ENTRIES     253
#define PSC_HEADER_SIZE     8

typedef struct PscEntry {
    uint64_t gpa;
    unsigned done;                  /* 4 KiB pages */
    unsigned pages;
    unsigned operation;
} PscEntry;

/*
 * A list is answered in the GHCB, where the guest would not see it any more if
 * the list made that page private. KVM leaves it to the host's program whether
 * a conversion is made; this one refuses.
 */
static bool takes_ghcb(const SevExit *exit, const PscEntry *entry)
{
    return exit->ghcb && entry->operation == PSC_PRIVATE
           && exit->gpa - entry->gpa
              < (uint64_t)entry->pages << RMEM_PAGE_BITS;
}

/* Returns an error as in a list; 0 for success. */
static uint64_t convert(SevExit *exit, PscEntry *entry)
{
    uint64_t rest = entry->pages - entry->done;
    RmemEvent event = entry->operation == PSC_PRIVATE ? RMEM_TO_PRIVATE
                                                      : RMEM_TO_SHARED;
    uint64_t gpa = entry->gpa + ((uint64_t)entry->done << RMEM_PAGE_BITS);
    bool done;

    if (!rest) {
        return 0;
    }
    if (takes_ghcb(exit, entry)) {
        restricted_violation(exit->sev->rm, exit->gpa, 1, RMEM_BY_POLICY,
                             exit->env->eip - exit->length);
        return PSC_ERROR_GENERIC;
    }
    switch (entry->operation) {
    case PSC_PRIVATE:
    case PSC_SHARED:
        done = sev_convert(exit->sev, gpa, rest, event,
                           exit->env->eip - exit->length, 0);
        break;
    default:
        return 0;       /* PSMASH and UNSMASH are hints; KVM ignores others */
    }
    trace_rmem_sev_psc(gpa, rest, entry->operation, done);
    return done ? 0 : PSC_ERROR_GENERIC;
}

/* MSR protocol: page 51:12, operation 55:52. */
bool sev_psc_page(SevExit *exit, uint64_t request)
{
    PscEntry entry = {
        .gpa = extract64(request, 12, 40) << RMEM_PAGE_BITS, .pages = 1,
        .operation = extract64(request, 52, 4),
    };

    return !(entry.gpa & SEV_C_MASK)
           && (entry.operation == PSC_PRIVATE
               || entry.operation == PSC_SHARED)
           && !convert(exit, &entry);
}

static bool parse(uint64_t raw, PscEntry *entry)
{
    *entry = (PscEntry) {
        .done = extract64(raw, 0, 12),
        .gpa = extract64(raw, 12, 40) << RMEM_PAGE_BITS,
        .operation = extract64(raw, 52, 4),
        .pages = extract64(raw, 56, 1) ? RESTRICTED_PAGES_2M : 1,
    };
    return entry->done <= entry->pages && !(entry->gpa & SEV_C_MASK)
           && !(entry->gpa & ((uint64_t)(entry->pages - 1) << RMEM_PAGE_BITS));
}

static uint64_t list(SevExit *exit, uint8_t *buffer)
{
    unsigned at = lduw_le_p(buffer), end = lduw_le_p(buffer + 2);

    if (end >= PSC_MAX_ENTRIES) {
        return PSC_ERROR_HEADER;
    }
    for (; at <= end; at++) {
        uint8_t *raw = buffer + PSC_HEADER_SIZE + 8 * at;
        PscEntry entry;
        uint64_t error = parse(ldq_le_p(raw), &entry) ? 0 : PSC_ERROR_ENTRY;

        stw_le_p(buffer, at);       /* tells the guest where an error is */
        error = error ?: convert(exit, &entry);
        if (error) {
            return error;
        }
        stq_le_p(raw, (ldq_le_p(raw) & ~UINT64_C(0xfff)) | entry.pages);
    }
    stw_le_p(buffer, at);
    return 0;
}

void sev_psc_list(SevExit *exit)
{
    uint64_t gpa = sev_ghcb_get(exit, GHCB_SCRATCH);
    uint8_t *buffer;

    if (!sev_ghcb_has(exit, GHCB_SCRATCH)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return;
    }
    /* A list is in the GHCB itself, and may fill it. */
    if ((gpa & TARGET_PAGE_MASK) != exit->gpa) {
        sev_malformed(exit, GHCB_INVALID_SCRATCH);
        return;
    }
    buffer = sev_ghcb_scratch(exit, PSC_HEADER_SIZE + 8 * PSC_MAX_ENTRIES);
    if (buffer) {
        exit->out2 = list(exit, buffer);
    }
}
