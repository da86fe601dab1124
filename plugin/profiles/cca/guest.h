/*
 * Arm CCA, as a guest sees it: the realm and its vCPUs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sources, by the names used in comments:
 *  - RMM: Realm Management Monitor Specification (Arm DEN0137), 1.0, whose
 *    sections are named
 *  - SMCCC: SMC Calling Convention (Arm DEN0028)
 *  - Linux: arch/arm64/include/asm/rsi_smc.h, arch/arm64/kernel/rsi.c
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CCA_GUEST_H
#define HW_RESTRICTED_MEMORY_PROFILES_CCA_GUEST_H

#include "cpu.h"
#include "qapi/qapi-types-restricted-memory-cca.h"
#include "qapi/qapi-types-sockets.h"
#include "system/confidential-guest-support.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/profiles/service.h"

#define TYPE_RME_GUEST "rme-guest"
OBJECT_DECLARE_SIMPLE_TYPE(CcaGuest, RME_GUEST)

/* A measurement, a challenge, a personalization value; RMM, B5.4 */
#define CCA_WORD_BYTES      64
#define CCA_MEASUREMENTS    5       /* RIM, REM 1 to 4 */
#define CCA_TOKEN_MAX       16384   /* what the guest is told; ours */

/* The token that a vCPU has asked for: RMM, A7.2. BQL. */
typedef struct CcaToken {
    bool in_progress;               /* ATTEST_IN_PROGRESS */
    bool is_awaited;                /* the service has not answered yet */
    uint32_t size, sent;            /* size 0 and not awaited: it has failed */
    uint8_t bytes[CCA_TOKEN_MAX];
} CcaToken;

typedef struct CcaVcpu {
    CcaToken token;
    RestrictedService *service;     /* NULL until it is needed */
    uint64_t ripas_base;            /* the request to be called again ... */
    uint32_t ripas_retries;         /* ... and how often it was */
} CcaVcpu;

typedef struct CcaImage CcaImage;

struct CcaGuest {
    ConfidentialGuestSupport parent_obj;

    /* Properties */
    uint8_t personalization[CCA_WORD_BYTES];
    RmeGuestMeasurementAlgorithm algorithm;
    SocketAddress *token_address;
    uint32_t token_timeout;         /* seconds */
    uint64_t ripas_max;             /* bytes that a request changes, 0: all */
    uint32_t ripas_retry;           /* how often the guest calls again first */
    bool ripas_refuse;

    /* State */
    RestrictedMemory *rm;
    CcaVcpu *vcpus;                 /* by cpu_index */
    uint32_t nvcpus;
    uint32_t ipa_bits;              /* 0: the machine has not asked */
    bool late;                      /* firmware runs before protection */
    bool armed;                     /* RIPAS is enforced; atomic */
    uint8_t measurements[CCA_MEASUREMENTS][CCA_WORD_BYTES];    /* BQL */
    CcaImage *image;                /* the RIM is not computed yet; BQL */
    int64_t host_call_ms;           /* see host-call.c */
    uint64_t host_calls_untold;
};

CcaGuest *cca_guest(void);          /* NULL: the VM is no realm */

/* An address with this bit is Unprotected: RMM, A5.1. */
static inline uint64_t cca_shared_bit(const CcaGuest *cca)
{
    return UINT64_C(1) << (cca->ipa_bits - 1);
}

#endif
