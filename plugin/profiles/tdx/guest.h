/*
 * Intel TDX, as a guest sees it: the TD and its vCPUs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sources, by the names used in comments:
 *  - ABI: Intel TDX Module v1.5 ABI Specification (348551), and the source
 *    of that module (github.com/intel/tdx-module, 1.5.01)
 *  - GHCI: Guest-Host Communication Interface for TDX (348552)
 *  - TDVF: TDX Virtual Firmware Design Guide (344991)
 *  - Linux: arch/x86/coco/tdx/tdx.c and arch/x86/include/asm/shared/tdx.h
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_GUEST_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_GUEST_H

#include "cpu.h"
#include "qapi/qapi-types-sockets.h"
#include "target/i386/confidential-guest.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/profiles/host-msr.h"
#include "hw/restricted-memory/profiles/sha384.h"
#include "hw/restricted-memory/profiles/tdx/ve.h"

#define TYPE_TDX_GUEST "tdx-guest"
OBJECT_DECLARE_SIMPLE_TYPE(TdxGuest, TDX_GUEST)

/* ABI, "ATTRIBUTES" */
#define TDX_ATTR_DEBUG              (UINT64_C(1) << 0)
#define TDX_ATTR_SEPT_VE_DISABLE    (UINT64_C(1) << 28)
#define TDX_ATTR_PKS                (UINT64_C(1) << 30)

/* ABI, "TD_CTLS" */
#define TDX_CTL_PENDING_VE_DISABLE  (UINT64_C(1) << 0)

#define TDX_HASH_BYTES SHA384_BYTES
#define TDX_RTMRS 4

/* State of one vCPU; only its thread touches it. */
typedef struct TdxVcpu {
    TdxVeInfo ve;
    bool ve_valid;                  /* not yet read by the guest */
    bool halt_wakes;                /* see tdx_has_work() */
    uint64_t halt_eip;
    uint64_t cpuid_ve;
    RestrictedMsrs host_msrs;       /* that the host keeps for it */
    uint64_t map_gpa;               /* the MapGPA to be called again ... */
    uint32_t map_retries;           /* ... and how often it was */
} TdxVcpu;

typedef struct TdxQuote TdxQuote;

struct TdxGuest {
    X86ConfidentialGuest parent_obj;

    /* Properties */
    uint64_t attributes;
    uint32_t gpaw;                  /* 48 or 52 */
    bool strict;                    /* #VE for all that exits to the host */
    bool accept_1g;                 /* no TDX module does it yet */
    uint64_t map_gpa_max;           /* bytes that a MapGPA converts, 0: all */
    uint32_t map_gpa_retry;         /* how often the guest calls again first */
    bool map_gpa_refuse;            /* refuse every MapGPA */
    uint8_t mrconfigid[TDX_HASH_BYTES];
    uint8_t mrowner[TDX_HASH_BYTES];
    uint8_t mrownerconfig[TDX_HASH_BYTES];
    SocketAddress *quote_address;
    uint32_t quote_timeout;         /* seconds */

    /* State */
    RestrictedMemory *rm;
    TdxVcpu *vcpus;                 /* by cpu_index */
    uint32_t nvcpus;
    bool armed;                     /* the guest has made a TDCALL; atomic */
    uint8_t *leaf;                  /* level at which each 2 MiB was accepted */
    uint32_t leaf_bytes;
    uint64_t td_ctls;
    uint64_t notify_enables;
    uint8_t mrtd[TDX_HASH_BYTES];
    uint8_t rtmr[TDX_RTMRS][TDX_HASH_BYTES];    /* rtmr_lock */
    RestrictedLock rtmr_lock;           /* a leaf */
    uint32_t notify_vector;         /* 0: none */
    uint32_t notify_apic;
    QLIST_HEAD(, TdxQuote) quotes;  /* in flight; BQL */
    uint32_t quotes_in_flight;      /* atomic */
    GArray *sections;               /* TdvfSection; NULL: no TDVF */
};

TdxGuest *tdx_guest(void);          /* NULL: the VM is no TD */

static inline uint64_t tdx_shared_bit(const TdxGuest *tdx)
{
    return UINT64_C(1) << (tdx->gpaw - 1);
}

static inline bool tdx_ve_disabled(const TdxGuest *tdx)
{
    return qatomic_read(&tdx->td_ctls) & TDX_CTL_PENDING_VE_DISABLE;
}

#endif
