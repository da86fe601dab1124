/*
 * CCA: RIPAS, by which a realm says what is its own memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RMM, A5.4, B5.3.5 and B5.3.6. The monitor asks the host for each change. Ours
 * makes it at once, unless it was told to behave otherwise.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/profiles/cca/memory.h"

/* RsiResponse, RsiRipasChangeFlags */
#define RSI_ACCEPT              0
#define RSI_REJECT              1
#define RSI_CHANGE_DESTROYED    1

/* X1 base, X2 top: whole granules, protected. */
static bool is_range(const CcaCall *call)
{
    uint64_t base = call->x[1], top = call->x[2];

    return !((base | top) & (RMEM_PAGE_SIZE - 1)) && base < top
           && top <= cca_shared_bit(call->cca);
}

static RsiRipas ripas_of(RmemState state)
{
    static const RsiRipas ripas[RMEM_STATES] = {
        [RMEM_PENDING] = RSI_RAM,
        [RMEM_PRIVATE] = RSI_RAM,
        [RMEM_SHARED] = RSI_EMPTY,
        [RMEM_POISONED] = RSI_DESTROYED,
    };

    return ripas[state];
}

/* A part of IPA space with one RIPAS. */
typedef struct Stretch {
    uint64_t end;
    RsiRipas ripas;
    RestrictedPages pages;          /* count 0: it is no RAM */
} Stretch;

static Stretch no_ram_at(const RestrictedMemory *rm, uint64_t at, uint64_t top)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        if (rm->slots[i].gpa > at) {
            top = MIN(top, rm->slots[i].gpa);
        }
    }
    return (Stretch){ .end = top, .ripas = RSI_EMPTY };
}

/* What begins @at, not beyond @top. */
static Stretch stretch_at(const RestrictedMemory *rm, uint64_t at, uint64_t top)
{
    const RestrictedSlot *slot = restricted_slot(rm, at);
    RmemRun run;

    if (!slot) {
        return no_ram_at(rm, at, top);
    }
    top = MIN(top, slot->gpa + slot->size);
    run = rmem_run_at(&rm->core, (at - slot->gpa + slot->offset)
                                 >> RMEM_PAGE_BITS,
                      (top - at) >> RMEM_PAGE_BITS);
    return (Stretch){
        .end = at + (run.count << RMEM_PAGE_BITS),
        .ripas = ripas_of(run.state), .pages = { run.first, run.count },
    };
}

/* Out: X1 where the next one begins, X2 RIPAS. */
uint64_t cca_ipa_state_get(CcaCall *call)
{
    RestrictedMemory *rm = call->cca->rm;
    uint64_t at = call->x[1], top = call->x[2];
    Stretch first;

    if (!is_range(call)) {
        return RSI_ERROR_INPUT;
    }
    first = stretch_at(rm, at, top);
    for (at = first.end; at < top; ) {
        Stretch next = stretch_at(rm, at, top);

        if (next.ripas != first.ripas) {
            break;
        }
        at = next.end;
    }
    call->x[1] = at;
    call->x[2] = first.ripas;
    return RSI_SUCCESS;
}

typedef struct SetRequest {
    CcaCall call;
    uint64_t base, top;
    RsiRipas ripas;
    bool change_destroyed;
} SetRequest;

static void set_done(const CcaCall *call, uint64_t new_base, uint64_t response)
{
    call->x[0] = RSI_SUCCESS;
    call->x[1] = new_base;
    call->x[2] = response;
}

static RmemRefusal change(const SetRequest *req, const RestrictedPages *pages,
                          RmemEvent event)
{
    RestrictedChange change = {
        .ranges = pages, .n = 1, .event = event, .actor = RMEM_A_VCPU,
        .pc = req->call.pc,
    };

    if (restricted_change(req->call.cca->rm, &change, NULL)) {
        return RMEM_OK;
    }
    return change.refusal ?: RMEM_OUT_OF_RANGE;     /* the host is full */
}

/*
 * How far the change can go, and what is in the way. What was DESTROYED becomes
 * RAM that has no content: the request says that it may.
 */
static RmemRefusal set_prepare(const SetRequest *req, uint64_t *end)
{
    RestrictedMemory *rm = req->call.cca->rm;
    RmemRefusal refusal = RMEM_OK;

    for (*end = req->base; *end < req->top && refusal == RMEM_OK; ) {
        Stretch part = stretch_at(rm, *end, req->top);

        if (!part.pages.count && req->ripas == RSI_RAM) {
            refusal = RMEM_OUT_OF_RANGE;
        } else if (part.ripas == RSI_DESTROYED) {
            refusal = req->change_destroyed
                      ? change(req, &part.pages, RMEM_DISCARD)
                      : RMEM_PAGE_POISONED;
        }
        if (refusal == RMEM_OK) {
            *end = part.end;
        }
    }
    return refusal;
}

static RmemRefusal set_apply(const SetRequest *req, uint64_t *end)
{
    RestrictedMemory *rm = req->call.cca->rm;
    RmemEvent event = req->ripas == RSI_RAM ? RMEM_TO_PRIVATE : RMEM_TO_SHARED;

    for (unsigned i = 0; i < rm->nslots; i++) {
        RestrictedPages pages;
        RmemRefusal refusal;

        if (!restricted_slot_part(&rm->slots[i], req->base, *end - req->base,
                                  &pages)) {
            continue;
        }
        refusal = change(req, &pages, event);
        if (refusal != RMEM_OK) {
            *end = restricted_page_to_gpa(rm, pages.first);
            return refusal;
        }
    }
    return RMEM_OK;
}

/*
 * No other vCPU runs, and this one has completed the instruction. A5.4, DRPPK:
 * a host rejects only RAM. Ours also rejects EMPTY if it has no storage,
 * because a guest that is told to go on would call for ever.
 */
static void set_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree SetRequest *req = data.host_ptr;
    uint64_t end;
    RmemRefusal in_the_way = set_prepare(req, &end);
    RmemRefusal refusal = end > req->base ? set_apply(req, &end) : RMEM_OK;
    bool rejects = refusal != RMEM_OK
                   || (in_the_way != RMEM_OK && req->ripas == RSI_RAM);

    if (end < req->top) {
        restricted_violation(req->call.cca->rm, end,
                             (req->top - end) >> RMEM_PAGE_BITS,
                             refusal ?: in_the_way, req->call.pc);
    }
    set_done(&req->call, end, rejects ? RSI_REJECT : RSI_ACCEPT);
}

/* Must the guest call again for this request, or this part of one? */
static bool is_put_off(CcaCall *call, uint64_t base)
{
    CcaVcpu *vcpu = call->vcpu;

    if (vcpu->ripas_base != base) {
        vcpu->ripas_base = base;
        vcpu->ripas_retries = 0;
    }
    if (vcpu->ripas_retries < call->cca->ripas_retry) {
        vcpu->ripas_retries++;
        return true;
    }
    vcpu->ripas_base = 0;
    vcpu->ripas_retries = 0;
    return false;
}

/*
 * X1 base, X2 top, X3 RIPAS, X4 flags. Out: X1 where to continue, X2 the host's
 * response. A host can reject only RAM; a change to EMPTY it can only leave
 * undone, and the guest calls again.
 */
uint64_t cca_ipa_state_set(CcaCall *call)
{
    CcaGuest *cca = call->cca;
    SetRequest req = {
        .call = *call, .base = call->x[1], .top = call->x[2],
        .ripas = call->x[3] & 0xff,
        .change_destroyed = call->x[4] & RSI_CHANGE_DESTROYED,
    };

    if (!is_range(call) || req.ripas > RSI_RAM) {
        call->x[2] = RSI_REJECT;        /* Linux looks at it in any case */
        return RSI_ERROR_INPUT;
    }
    if (cca->ripas_refuse) {
        restricted_violation(cca->rm, req.base,
                             (req.top - req.base) >> RMEM_PAGE_BITS,
                             RMEM_BY_POLICY, call->pc);
        set_done(call, req.base, req.ripas == RSI_RAM ? RSI_REJECT
                                                      : RSI_ACCEPT);
        return RSI_SUCCESS;
    }
    if (is_put_off(call, req.base)) {
        set_done(call, req.base, RSI_ACCEPT);
        return RSI_SUCCESS;
    }
    if (cca->ripas_max) {
        req.top = MIN(req.top, req.base + cca->ripas_max);
    }
    async_safe_run_on_cpu(call->cpu, set_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&req, sizeof(req))));
    return CCA_DEFERRED;
}
