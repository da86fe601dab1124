/*
 * TDX: MapGPA, by which a guest converts memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCI, "TDG.VP.VMCALL<MapGPA>". A request converts all or nothing of each
 * slot. After a refusal the slot is unchanged, and R11 is the address that
 * refused.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/trace.h"

/* Addresses that are not RAM are shared already and need nothing. */
static RmemRefusal map_ram(TdxGuest *tdx, uint64_t gpa, uint64_t size,
                           RmemEvent event, uint64_t rip, uint64_t *done)
{
    RestrictedMemory *rm = tdx->rm;

    for (unsigned i = 0; i < rm->nslots; i++) {
        RestrictedPages pages;
        RestrictedChange change = {
            .ranges = &pages, .n = 1, .event = event, .actor = RMEM_A_VCPU,
            .pc = rip,
        };

        if (restricted_slot_part(&rm->slots[i], gpa, size, &pages)
            && !restricted_change(rm, &change, NULL)) {
            /* No rule has refused: the host is full. */
            uint64_t bad = change.refusal == RMEM_OK ? pages.first : change.bad;

            *done = restricted_page_to_gpa(rm, bad) - gpa;
            return change.refusal ?: RMEM_OUT_OF_RANGE;
        }
    }
    *done = size;
    return RMEM_OK;
}

typedef struct MapRequest {
    TdxCall call;
    uint64_t gpa, size, part;
    RmemEvent event;
} MapRequest;

/* No other vCPU runs, and this one has completed the instruction. */
static void map_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree MapRequest *req = data.host_ptr;
    TdxGuest *tdx = req->call.tdx;
    uint64_t bit = req->event == RMEM_TO_SHARED ? tdx_shared_bit(tdx) : 0;
    uint64_t status = TDX_VMCALL_SUCCESS, done;
    uint64_t rip = cpu_env(cpu)->eip - req->call.length;
    RmemRefusal refusal = map_ram(tdx, req->gpa, req->part, req->event, rip,
                                  &done);

    if (refusal != RMEM_OK) {
        restricted_violation(tdx->rm, req->gpa + done,
                             req->size >> RMEM_PAGE_BITS, refusal, rip);
        status = TDX_VMCALL_INVALID_OPERAND;
    } else if (req->part < req->size) {
        status = TDX_VMCALL_RETRY;
    }
    if (status != TDX_VMCALL_SUCCESS) {
        tdx_out(&req->call, R_R11, (req->gpa + done) | bit);
    }
    tdx_out(&req->call, R_R10, status);
    cpu_env(cpu)->regs[R_EAX] = TDX_SUCCESS;
    trace_rmem_tdx_map_gpa(req->gpa | bit, req->size, done, status);
}

/* Must the guest call again for this request, or this part of one? */
static bool is_put_off(TdxCall *call, uint64_t gpa)
{
    TdxVcpu *vcpu = call->vcpu;

    if (vcpu->map_gpa != gpa) {
        vcpu->map_gpa = gpa;
        vcpu->map_retries = 0;
    }
    if (vcpu->map_retries < call->tdx->map_gpa_retry) {
        vcpu->map_retries++;
        return true;
    }
    vcpu->map_gpa = 0;
    vcpu->map_retries = 0;
    return false;
}

static uint64_t refuse(TdxCall *call, const MapRequest *req)
{
    restricted_violation(call->tdx->rm, req->gpa, req->size >> RMEM_PAGE_BITS,
                         RMEM_BY_POLICY, call->env->eip);
    return TDX_VMCALL_INVALID_OPERAND;
}

/* R12 start, with the S bit to share; R13 size. R11: where to continue. */
uint64_t tdx_vmcall_map_gpa(TdxCall *call)
{
    TdxGuest *tdx = call->tdx;
    uint64_t shared = tdx_shared_bit(tdx);
    uint64_t gpa = tdx_in(call, R_R12), size = tdx_in(call, R_R13);
    MapRequest req = {
        .call = *call, .gpa = gpa & ~shared, .size = size, .part = size,
        .event = gpa & shared ? RMEM_TO_SHARED : RMEM_TO_PRIVATE,
    };

    tdx_out(call, R_R11, gpa);
    if (!size || req.gpa >= shared || size > shared - req.gpa) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    if ((gpa | size) & (RMEM_PAGE_SIZE - 1)) {
        return TDX_VMCALL_ALIGN_ERROR;
    }
    if (tdx->map_gpa_refuse) {
        return refuse(call, &req);
    }
    if (is_put_off(call, gpa)) {
        return TDX_VMCALL_RETRY;
    }
    if (tdx->map_gpa_max) {
        req.part = MIN(size, tdx->map_gpa_max);
    }
    async_safe_run_on_cpu(call->cpu, map_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&req, sizeof(req))));
    return TDX_DEFERRED;
}
