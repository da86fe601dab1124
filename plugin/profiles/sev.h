/*
 * AMD SEV, SEV-ES and SEV-SNP, as a guest sees them: shared between the files
 * sev*.c.
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

#ifndef HW_RESTRICTED_MEMORY_SEV_H
#define HW_RESTRICTED_MEMORY_SEV_H

#include "cpu.h"
#include "io/channel-socket.h"
#include "hw/restricted-memory/profiles.h"

#define SEV_C_BIT               51
#define SEV_C_MASK              (UINT64_C(1) << SEV_C_BIT)
#define SEV_EXCP_VC             29
#define SEV_PAGES_2M            512

#define SEV_MSR_GHCB            0xc0010130
#define SEV_MSR_STATUS          0xc0010131

typedef enum SevLevel { SEV_PLAIN, SEV_ES, SEV_SNP } SevLevel;

/* A part of the firmware's metadata; also KVM's numbering of OVMF's. */
typedef enum SevSectionType {
    SEV_SEC_MEM = 1, SEV_SECRETS = 2, SEV_CPUID = 3, SEV_SVSM_CAA = 4,
    SEV_KERNEL_HASHES = 0x10,
} SevSectionType;

typedef struct SevSection {
    uint32_t gpa, size, type;
} SevSection;

/* What belongs to one vCPU; only its thread touches it, or nobody runs. */
typedef struct SevVcpu {
    uint64_t ghcb;                  /* the MSR */
    uint64_t registered;            /* GHCB's page, UINT64_MAX if none */
    bool by_host;                   /* acting for the host: nothing traps */
    bool started;                   /* has had a SIPI since the launch */
    CPUX86State *parked;            /* AP reset hold: goes on by a SIPI */
    bool parked_by_msr;
} SevVcpu;

typedef struct SevGuest {
    RestrictedMemory *rm;
    Object *object;                 /* sev-guest or sev-snp-guest */
    SevLevel level;

    /* Properties of that object */
    uint64_t policy;
    bool strict;                    /* #VC for CPUID, I/O, MSR, MMIO */
    bool stop_on_mismatch;
    bool kernel_hashes;
    uint8_t host_data[32];
    uint8_t id_block[96];
    uint8_t id_key_digest[48], author_key_digest[48];
    SocketAddress *request_address; /* NULL: nobody */

    /* State */
    bool armed;                     /* the C-bit means something; atomic */
    bool metadata;                  /* the firmware knows SEV */
    GArray *sections;               /* SevSection */
    uint32_t hashes_gpa, hashes_size;   /* table of hashes, 0: none */
    uint8_t hashes[512];            /* what goes there */
    uint32_t ap_reset;              /* where APs of an ES guest begin, 0: none */
    uint64_t jump_table;
    SevVcpu *vcpus;                 /* by cpu_index */
    uint8_t *split;                 /* each 2 MiB: RMP has 4 KiB entries */
    GHashTable *vmsas;              /* GPAs of VMSA pages */
    uint8_t vmpck[4][32];
    uint8_t measurement[48], report_id[32];
} SevGuest;

/* sev-guest.c */
SevGuest *sev_guest(void);
uint64_t sev_status(const SevGuest *sev);

static inline SevVcpu *sev_vcpu(CPUState *cpu)
{
    return &sev_guest()->vcpus[cpu->cpu_index];
}

/* sev-properties.c */
bool sev_get_properties(SevGuest *sev, Error **errp);

/* sev-memory.c */
RestrictedAlias sev_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill);
void sev_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state);
bool sev_is_shared_untold(RestrictedMemory *rm, hwaddr gpa);
/*
 * Convert what is RAM of [gpa, gpa + count pages); the rest is nobody's
 * business. False: a page refuses, or the host is full. No other vCPU runs.
 */
bool sev_convert(SevGuest *sev, uint64_t gpa, uint64_t count, RmemEvent event,
                 uint64_t rip);

/* sev-rmp.c */
bool sev_instruction(RestrictedMemory *rm, const RestrictedInsn *insn);
bool sev_is_validated(const SevGuest *sev, uint64_t page);

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

/* GHCB, "GHCB Layout": offsets of what is used */
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

/* sev-ghcb.c */
void sev_vmgexit(SevGuest *sev, const RestrictedInsn *insn);
bool sev_ghcb_has(const SevExit *exit, unsigned offset);
uint64_t sev_ghcb_get(const SevExit *exit, unsigned offset);
void sev_ghcb_put(SevExit *exit, unsigned offset, uint64_t value);
void sev_malformed(SevExit *exit, uint64_t reason);
/* The scratch area; NULL, and a malformed exit, if it is not in reach. */
uint8_t *sev_ghcb_scratch(SevExit *exit, uint64_t size);
void sev_ghcb_finish(SevExit *exit);
G_NORETURN void sev_terminate(SevExit *exit, unsigned set, unsigned reason);

/* sev-exits.c: false: there is no such exit */
bool sev_exit_instruction(SevExit *exit);

/* sev-psc.c: no other vCPU runs */
uint64_t sev_psc_page(SevExit *exit, uint64_t request);
void sev_psc_list(SevExit *exit);

/* sev-ap.c */
void sev_ap_creation(SevExit *exit);
G_NORETURN void sev_ap_park(SevExit *exit);
void sev_ap_jump_table(SevExit *exit);
void sev_ap_ids(SevExit *exit);
void sev_sipi(RestrictedMemory *rm, CPUState *cpu);
void sev_ap_reset(SevVcpu *vcpu);

/* sev-vc.c */
G_NORETURN void sev_raise_vc(CPUState *cpu, uint64_t error, uintptr_t ra);
void sev_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                   uintptr_t ra);
hwaddr sev_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias);

/* sev-launch.c: before the machine is built, and when it is complete */
bool sev_launch_prepare(SevGuest *sev, Error **errp);
bool sev_launch_init(SevGuest *sev, Error **errp);
void sev_launch(RestrictedMemory *rm);
/* The first RDMSR of SEV_STATUS; no other vCPU runs. */
void sev_arm(SevGuest *sev, CPUState *cpu);

/* sev-metadata.c */
bool sev_metadata_parse(SevGuest *sev, const uint8_t *image, size_t size,
                        Error **errp);
void sev_cpuid_page(uint8_t *page);
void sev_secrets_page(const SevGuest *sev, uint8_t *page);
bool sev_hashes(RestrictedMemory *rm);
void sev_hash(RestrictedMemory *rm,
              const struct SevKernelLoaderContext *context);

/* sev-measure.c: FW, chapter 8.17.2 "PAGE_INFO" */
typedef enum SevPageType { SEV_PAGE_NORMAL = 1, SEV_PAGE_VMSA, SEV_PAGE_ZERO,
                           SEV_PAGE_UNMEASURED, SEV_PAGE_SECRETS,
                           SEV_PAGE_CPUID } SevPageType;
void sev_measure(SevGuest *sev, SevPageType type, uint64_t gpa,
                 const uint8_t *content);

/* sev-request.c */
void sev_request_launch(SevGuest *sev);
void sev_request(SevExit *exit, bool extended);

#endif
