/*
 * TDX: MRTD, RTMRs, and the report over them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * MRTD is computed as by the TDX module, over the pages that launch.c places,
 * in its order; a host that places other pages gets another value. A report has
 * no MAC: a sentence in its place says so.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/sha384.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/measure.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"

/* ABI, "TDREPORT_STRUCT" and what is in it; all little-endian */
#define REPORT_BYTES        1024
#define REPORT_DATA_BYTES   64
#define REPORT_TYPE_TDX     0x81

typedef struct QEMU_PACKED ReportMac {
    uint8_t type, subtype, version, reserved0[13];
    uint8_t cpusvn[16];
    uint8_t tee_tcb_info_hash[TDX_HASH_BYTES];
    uint8_t tee_info_hash[TDX_HASH_BYTES];
    uint8_t report_data[REPORT_DATA_BYTES];
    uint8_t reserved1[32];
    char mac[32];
} ReportMac;

typedef struct QEMU_PACKED TdInfo {
    uint64_t attributes, xfam;
    uint8_t mrtd[TDX_HASH_BYTES];
    uint8_t mrconfigid[TDX_HASH_BYTES];
    uint8_t mrowner[TDX_HASH_BYTES];
    uint8_t mrownerconfig[TDX_HASH_BYTES];
    uint8_t rtmr[TDX_RTMRS][TDX_HASH_BYTES];
    uint8_t servtd_hash[TDX_HASH_BYTES];
    uint8_t reserved[64];
} TdInfo;

typedef struct QEMU_PACKED Report {
    ReportMac mac;
    struct QEMU_PACKED {
        uint64_t valid;
        uint8_t rest[231];
    } tee_tcb_info;                 /* of a TDX module: there is none */
    uint8_t reserved[17];
    TdInfo td_info;
} Report;

QEMU_BUILD_BUG_ON(sizeof(ReportMac) != 256);
QEMU_BUILD_BUG_ON(sizeof(TdInfo) != 512);
QEMU_BUILD_BUG_ON(sizeof(Report) != REPORT_BYTES);

static const char no_mac[32] = "cvmlab: emulated, not authentic";

/* ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND: what they add to MRTD */
#define MR_BLOCK    128
#define MR_CHUNK    256

static void measure_block(GChecksum *mrtd, const char *name, uint64_t gpa)
{
    uint8_t block[MR_BLOCK] = { 0 };

    memcpy(block, name, strlen(name));
    stq_le_p(block + 16, gpa);
    g_checksum_update(mrtd, block, sizeof(block));
}

/* @content NULL: the page is added, its content is not measured. */
void tdx_measure_page(GChecksum *mrtd, uint64_t gpa, const uint8_t *content)
{
    measure_block(mrtd, "MEM.PAGE.ADD", gpa);
    for (unsigned at = 0; content && at < RMEM_PAGE_SIZE; at += MR_CHUNK) {
        measure_block(mrtd, "MR.EXTEND", gpa + at);
        g_checksum_update(mrtd, content + at, MR_CHUNK);
    }
}

void tdx_measure_finish(TdxGuest *tdx, GChecksum *mrtd)
{
    gsize length = sizeof(tdx->mrtd);

    g_checksum_get_digest(mrtd, tdx->mrtd, &length);
}

void tdx_measure_reset(TdxGuest *tdx)
{
    RESTRICTED_LOCK_GUARD(&tdx->rtmr_lock);
    memset(tdx->mrtd, 0, sizeof(tdx->mrtd));
    memset(tdx->rtmr, 0, sizeof(tdx->rtmr));
}

/* In: RCX 48 bytes, private, 64-aligned; RDX index. */
uint64_t tdx_rtmr_extend(TdxCall *call)
{
    uint64_t gpa = call->env->regs[R_ECX], index = call->env->regs[R_EDX];
    uint8_t both[2 * TDX_HASH_BYTES];

    if (gpa & 63 || !tdx_read(call, gpa, both + TDX_HASH_BYTES,
                              TDX_HASH_BYTES, TDX_PRIVATE_ONLY)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (index >= TDX_RTMRS) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    RESTRICTED_LOCK_GUARD(&call->tdx->rtmr_lock);
    memcpy(both, call->tdx->rtmr[index], TDX_HASH_BYTES);
    restricted_sha384(both, sizeof(both), call->tdx->rtmr[index]);
    return TDX_SUCCESS;
}

static void report_fill(TdxGuest *tdx, Report *report)
{
    TdInfo *info = &report->td_info;

    info->attributes = cpu_to_le64(tdx->attributes);
    info->xfam = cpu_to_le64(tdx_xfam(cpu_env(first_cpu)));
    memcpy(info->mrconfigid, tdx->mrconfigid, TDX_HASH_BYTES);
    memcpy(info->mrowner, tdx->mrowner, TDX_HASH_BYTES);
    memcpy(info->mrownerconfig, tdx->mrownerconfig, TDX_HASH_BYTES);
    WITH_RESTRICTED_LOCK(&tdx->rtmr_lock) {
        memcpy(info->mrtd, tdx->mrtd, TDX_HASH_BYTES);
        memcpy(info->rtmr, tdx->rtmr, sizeof(info->rtmr));
    }
    report->mac.type = REPORT_TYPE_TDX;
    restricted_sha384(&report->tee_tcb_info, sizeof(report->tee_tcb_info),
                      report->mac.tee_tcb_info_hash);
    restricted_sha384(info, sizeof(*info), report->mac.tee_info_hash);
    memcpy(report->mac.mac, no_mac, sizeof(no_mac));
}

/* In: RCX report, 1024-aligned; RDX 64 bytes of data; R8 subtype, 0. */
uint64_t tdx_report(TdxCall *call)
{
    const uint64_t *regs = call->env->regs;
    Report report = { 0 };

    if (regs[R_ECX] & (REPORT_BYTES - 1)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (regs[R_EDX] & (REPORT_DATA_BYTES - 1)
        || !tdx_read(call, regs[R_EDX], report.mac.report_data,
                     REPORT_DATA_BYTES, TDX_PRIVATE_OR_SHARED)) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    if (regs[R_R8]) {
        return TDX_OPERAND_INVALID | TDX_R8;
    }
    report_fill(call->tdx, &report);
    if (!tdx_write(call, regs[R_ECX], &report, sizeof(report),
                   TDX_PRIVATE_OR_SHARED)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    return TDX_SUCCESS;
}
