/*
 * AMD SEV, SEV-ES and SEV-SNP, as a guest sees them: the guest and its vCPUs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sources, by the names used in comments:
 *  - APM: AMD64 Architecture Programmer's Manual, volumes 2 (15.34 to 15.36)
 *    and 3
 *  - GHCB: SEV-ES Guest-Hypervisor Communication Block Standardization (56421)
 *  - FW: SEV Secure Nested Paging Firmware ABI Specification (56860)
 *  - KVM: arch/x86/kvm/svm/sev.c of Linux 6.12
 *  - Linux: arch/x86/coco/sev and arch/x86/include/asm/sev-common.h
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_GUEST_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_GUEST_H

#include "cpu.h"
#include "qapi/qapi-types-sockets.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/profiles/host-msr.h"
#include "hw/restricted-memory/profiles/sha384.h"

#define SEV_C_BIT               51
#define SEV_C_MASK              (UINT64_C(1) << SEV_C_BIT)

#define SEV_MSR_GHCB            0xc0010130
#define SEV_MSR_STATUS          0xc0010131

typedef enum SevLevel { SEV_PLAIN, SEV_ES, SEV_SNP } SevLevel;

typedef struct SevRequest SevRequest;

/* State of one vCPU; only its thread touches it, or no vCPU runs. */
typedef struct SevVcpu {
    uint64_t ghcb;                  /* the MSR */
    uint64_t registered;            /* page of the GHCB, UINT64_MAX if none */
    bool started;                   /* has had a SIPI since the launch */
    CPUX86State *parked;            /* AP reset hold: continues after a SIPI */
    bool parked_by_msr;
    SevRequest *request;            /* to the service, NULL: none */
    RestrictedMsrs host_msrs;       /* that the host keeps for it */
} SevVcpu;

typedef struct SevGuest {
    RestrictedMemory *rm;
    Object *object;                 /* sev-guest or sev-snp-guest */
    SevLevel level;

    /* Properties of that object */
    uint64_t policy;
    bool strict;                    /* #VC for all that exits to the host */
    bool stop_on_mismatch;
    bool kernel_hashes;
    uint8_t host_data[32];
    uint8_t id_block[96];
    bool has_id_block;
    uint8_t id_key_digest[SHA384_BYTES], author_key_digest[SHA384_BYTES];
    SocketAddress *request_address; /* NULL: no service */
    char *certs_path;
    uint8_t *certificates;          /* of that file, NULL: none */
    size_t certificates_size;

    /* State */
    bool armed;                     /* the C-bit has its meaning; atomic */
    bool counts_mapping;            /* the kernel's first use of it counts; atomic */
    bool metadata;                  /* the firmware has SEV metadata */
    GArray *sections;               /* SevSection */
    uint32_t hashes_gpa, hashes_size;   /* table of hashes, 0: none */
    uint8_t hashes[512];            /* the content of that table */
    uint32_t ap_reset;              /* where APs of an ES guest start, or 0 */
    uint64_t jump_table;
    SevVcpu *vcpus;                 /* by cpu_index */
    uint8_t *split;                 /* each 2 MiB: the RMP has 4 KiB entries */
    GHashTable *vmsas;              /* GPAs of VMSA pages */
    uint8_t vmpck[4][32];
    uint8_t measurement[SHA384_BYTES], report_id[32];
} SevGuest;

SevGuest *sev_guest(void);
uint64_t sev_status(const SevGuest *sev);

static inline SevVcpu *sev_vcpu(CPUState *cpu)
{
    return &sev_guest()->vcpus[cpu->cpu_index];
}

/* properties.c: take the object's properties. */
bool sev_get_properties(SevGuest *sev, Error **errp);

#endif
