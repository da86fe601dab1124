/*
 * Intel TDX, as a guest sees it: shared between the files tdx*.c.
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

#ifndef HW_RESTRICTED_MEMORY_TDX_H
#define HW_RESTRICTED_MEMORY_TDX_H

#include "cpu.h"
#include "io/channel-socket.h"
#include "system/confidential-guest-support.h"
#include "hw/restricted-memory/profiles.h"

#define TYPE_TDX_GUEST "tdx-guest"
OBJECT_DECLARE_SIMPLE_TYPE(TdxGuest, TDX_GUEST)

/* ABI, table "Function Completion Status Codes"; low 32 bits: detail */
#define TDX_SUCCESS                 UINT64_C(0)
#define TDX_OPERAND_INVALID         UINT64_C(0xc000010000000000)
#define TDX_NO_VALID_VE_INFO        UINT64_C(0xc000070400000000)
#define TDX_PAGE_ALREADY_ACCEPTED   UINT64_C(0x00000b0a00000000)
#define TDX_PAGE_SIZE_MISMATCH      UINT64_C(0xc0000b0b00000000)
#define TDX_FIELD_ID_INCORRECT      UINT64_C(0xc0000c0000000000)
#define TDX_FIELD_NOT_WRITABLE      UINT64_C(0xc0000c0100000000)
#define TDX_FIELD_VALUE_NOT_VALID   UINT64_C(0xc0000c0300000000)

/* ABI, "Operand Identifiers": the register at fault */
enum { TDX_RAX = 0, TDX_RCX = 1, TDX_RDX = 2, TDX_R8 = 8 };

/* The work that finishes the call has been queued; nobody writes RAX now. */
#define TDX_DEFERRED                UINT64_MAX

/* ABI, "ATTRIBUTES" */
#define TDX_ATTR_DEBUG              (UINT64_C(1) << 0)
#define TDX_ATTR_SEPT_VE_DISABLE    (UINT64_C(1) << 28)
#define TDX_ATTR_PKS                (UINT64_C(1) << 30)

/* ABI, "TD_CTLS" */
#define TDX_CTL_PENDING_VE_DISABLE  (UINT64_C(1) << 0)
#define TDX_CTL_REDUCE_VE           (UINT64_C(1) << 3)

#define TDX_HASH_BYTES 48           /* SHA-384 */
#define TDX_RTMRS 4
#define TDX_EXCP_VE 20

/* Levels of TDG.MEM.PAGE.ACCEPT */
enum { TDX_4K, TDX_2M, TDX_1G };
#define TDX_LEVEL_BITS(level) (12 + 9 * (level))

/* ABI, "VE_INFO"; reasons are those of VMX (SDM volume 3, appendix C) */
typedef struct TdxVeInfo {
    uint32_t reason;
    uint64_t qualification;
    uint64_t gla, gpa;
    uint32_t length;                /* of the instruction, 0 if undefined */
} TdxVeInfo;

enum { TDX_EXIT_CPUID = 10, TDX_EXIT_HLT = 12, TDX_EXIT_IO = 30,
       TDX_EXIT_RDMSR = 31, TDX_EXIT_WRMSR = 32, TDX_EXIT_MWAIT = 36,
       TDX_EXIT_MONITOR = 39, TDX_EXIT_EPT_VIOLATION = 48 };

/* What belongs to one vCPU; only its thread touches it. */
typedef struct TdxVcpu {
    bool by_host;                   /* acting for the host: nothing traps */
    TdxVeInfo ve;
    bool ve_valid;                  /* not read by the guest yet */
    bool halt_wakes;                /* see tdx_has_work() */
    uint64_t halt_eip;
    uint64_t cpuid_ve;
    uint64_t map_gpa;               /* the MapGPA that has been put off ... */
    uint32_t map_retries;           /* ... so many times */
} TdxVcpu;

/* TDVF, "TDVF descriptor": where a part of the firmware goes */
typedef enum { TDVF_BFV, TDVF_CFV, TDVF_TD_HOB, TDVF_TEMP_MEM } TdvfType;

typedef struct TdvfSection {
    uint32_t offset, raw_size;
    uint64_t gpa, size;
    uint32_t type, attributes;
} TdvfSection;

#define TDVF_MR_EXTEND 1


struct TdxGuest {
    ConfidentialGuestSupport parent_obj;

    /* Properties */
    uint64_t attributes;
    uint32_t gpaw;                  /* 48 or 52 */
    bool strict;                    /* #VE for CPUID, I/O, MSR, HLT, MMIO */
    bool accept_1g;                 /* no TDX module does it up to now */
    uint64_t map_gpa_max;           /* bytes a MapGPA converts, 0: all */
    uint32_t map_gpa_retry;         /* times that it is put off first */
    bool map_gpa_refuse;            /* whatever is asked for */
    uint8_t mrconfigid[TDX_HASH_BYTES];
    uint8_t mrowner[TDX_HASH_BYTES];
    uint8_t mrownerconfig[TDX_HASH_BYTES];
    SocketAddress *quote_address;

    /* State */
    RestrictedMemory *rm;
    TdxVcpu *vcpus;                 /* by cpu_index */
    uint32_t nvcpus;
    bool armed;                     /* the guest has made a TDCALL; atomic */
    uint8_t *leaf;                  /* level each 2 MiB was accepted at */
    uint32_t leaf_bytes;
    uint64_t td_ctls;
    uint64_t notify_enables;
    uint8_t mrtd[TDX_HASH_BYTES];
    uint8_t rtmr[TDX_RTMRS][TDX_HASH_BYTES];    /* rtmr_lock */
    QemuMutex rtmr_lock;
    uint32_t notify_vector;         /* 0: none */
    uint32_t notify_apic;
    uint32_t quotes_in_flight;      /* atomic */
    GArray *sections;               /* TdvfSection; NULL: no TDVF */
};

/* One TDCALL. */
typedef struct TdxCall {
    TdxGuest *tdx;
    TdxVcpu *vcpu;
    CPUState *cpu;
    CPUX86State *env;
    int length;                     /* of the instruction */
    uintptr_t ra;
} TdxCall;

/* GHCI, "TDG.VP.VMCALL Completion-Status Codes" */
#define TDX_VMCALL_SUCCESS          UINT64_C(0)
#define TDX_VMCALL_RETRY            UINT64_C(1)
#define TDX_VMCALL_INVALID_OPERAND  UINT64_C(0x8000000000000000)
#define TDX_VMCALL_ALIGN_ERROR      UINT64_C(0x8000000000000002)
#define TDX_VMCALL_UNSUPPORTED      UINT64_C(0x8000000000000003)

/*
 * Registers of a VMCALL. One that RCX does not select reads as 0 and keeps
 * its value.
 */
static inline uint64_t tdx_in(const TdxCall *call, int reg)
{
    return call->env->regs[R_ECX] >> reg & 1 ? call->env->regs[reg] : 0;
}

static inline void tdx_out(const TdxCall *call, int reg, uint64_t value)
{
    if (call->env->regs[R_ECX] >> reg & 1) {
        call->env->regs[reg] = value;
    }
}

/* tdx-guest.c */
TdxGuest *tdx_guest(void);          /* NULL: the VM is no TD */

static inline uint64_t tdx_shared_bit(const TdxGuest *tdx)
{
    return UINT64_C(1) << (tdx->gpaw - 1);
}

static inline bool tdx_ve_disabled(const TdxGuest *tdx)
{
    return qatomic_read(&tdx->td_ctls) & TDX_CTL_PENDING_VE_DISABLE;
}

/* tdx-call.c */
bool tdx_instruction(RestrictedMemory *rm, const RestrictedInsn *insn);

/* tdx-metadata.c: leaves */
uint64_t tdx_vm_rd(TdxCall *call);
uint64_t tdx_vm_wr(TdxCall *call);
uint64_t tdx_vp_rd_wr(TdxCall *call);
uint64_t tdx_sys_rd(TdxCall *call);
uint64_t tdx_sys_rdall(TdxCall *call);

/* tdx-memory.c */
RestrictedAlias tdx_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill);
void tdx_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state);
hwaddr tdx_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias);
uint64_t tdx_page_accept(TdxCall *call);
typedef enum { TDX_PRIVATE_ONLY, TDX_PRIVATE_OR_SHARED } TdxReach;
/*
 * Touch guest memory for a leaf, within a page. False: no such memory. Does
 * not return if the page is not there for the guest.
 */
bool tdx_read(TdxCall *call, uint64_t gpa, void *buf, size_t size,
              TdxReach reach);
bool tdx_write(TdxCall *call, uint64_t gpa, const void *buf, size_t size,
               TdxReach reach);

/* How a page is mapped. */
typedef struct TdxMapping {
    int level;
    bool pending;
} TdxMapping;
/* Does not return if the host would have to map the page first. */
TdxMapping tdx_mapping(TdxCall *call, uint64_t gpa);

/* tdx-partition.c */
uint64_t tdx_page_attr_rd(TdxCall *call);
uint64_t tdx_page_attr_wr(TdxCall *call);
uint64_t tdx_vp_enter(TdxCall *call);
uint64_t tdx_vp_invept(TdxCall *call);
uint64_t tdx_vp_invgla(TdxCall *call);

/* tdx-map-gpa.c */
uint64_t tdx_vmcall_map_gpa(TdxCall *call);

/* tdx-ve.c */
G_NORETURN void tdx_raise_ve(CPUState *cpu, const TdxVeInfo *info,
                             uintptr_t ra);
uint64_t tdx_veinfo_get(TdxCall *call);
uint64_t tdx_cpuidve_set(TdxCall *call);
void tdx_intercept(CPUState *cpu, uint32_t type, uint64_t param,
                   uintptr_t ra);

/* tdx-vmcall.c */
uint64_t tdx_vmcall(TdxCall *call);
bool tdx_has_work(CPUState *cpu);

/* tdx-launch.c: before the machine is built, and when it is complete */
bool tdx_launch_prepare(TdxGuest *tdx, Error **errp);
bool tdx_launch_init(TdxGuest *tdx, Error **errp);
void tdx_launch(RestrictedMemory *rm);
/* The first TDCALL under a firmware that knows nothing of TDX. */
void tdx_arm(TdxGuest *tdx);

/* tdx-vmstate.c: once all else about the TD is allocated */
void tdx_vmstate_init(TdxGuest *tdx);

/* tdvf.c: @image is the firmware; NULL with or without an error */
GArray *tdvf_parse(const uint8_t *image, size_t size, Error **errp);
/* Write the list of HOBs into @hob, which is at @gpa of the guest. */
bool tdvf_build_hob(TdxGuest *tdx, uint8_t *hob, uint64_t gpa, uint64_t size);

/* tdx-measure.c */
void tdx_measure_reset(TdxGuest *tdx);
void tdx_measure_page(GChecksum *mrtd, uint64_t gpa, const uint8_t *content);
void tdx_measure_finish(TdxGuest *tdx, GChecksum *mrtd);
uint64_t tdx_rtmr_extend(TdxCall *call);
uint64_t tdx_report(TdxCall *call);

/* tdx-quote.c. False: not a buffer for quotes. The quote comes later. */
bool tdx_get_quote(TdxGuest *tdx, uint64_t gpa, uint64_t size);

#endif
