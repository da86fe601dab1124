/*
 * TDX: the S bit, secure EPT, acceptance, MapGPA.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A page of the restricted backend stands for a leaf of the secure EPT. The
 * level at which it is mapped matters only to TDG.MEM.PAGE.ACCEPT, so it is
 * kept here, one byte per 2 MiB, and is void if a page in them is not private.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/qemu/x86/firmware.h"
#include "hw/restricted-memory/qemu/x86/pc-hole.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"
#include "hw/restricted-memory/trace.h"

/* SDM volume 3, "Exit Qualification for EPT Violations" */
#define EPT_READ        (1 << 0)
#define EPT_WRITE       (1 << 1)
#define EPT_FETCH       (1 << 2)
#define EPT_GLA_VALID   (1 << 7)

uint64_t tdx_view_bit(const RestrictedMemory *rm)
{
    return tdx_shared_bit(tdx_guest());
}

RestrictedAlias tdx_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill)
{
    const TdxGuest *tdx = tdx_guest();
    uint64_t shared = tdx_shared_bit(tdx);
    hwaddr pa = fill->pa;

    if (pa & shared) {
        return (RestrictedAlias){ pa & ~shared, RESTRICTED_SHARED };
    }
    /* Not armed: firmware that does not know TDX, and its kernel so far. */
    return (RestrictedAlias){ pa, qatomic_read(&tdx->armed)
                                  ? RESTRICTED_PRIVATE : RESTRICTED_BY_STATE };
}

/* With TDVF, a PC's hole is RAM at private addresses (see launch.c). */
static uint64_t page_at(const TdxGuest *tdx, uint64_t gpa)
{
    uint64_t page = restricted_page_at(tdx->rm, gpa);

    return page == RESTRICTED_NO_PAGE && tdx->sections && is_in_pc_hole(gpa)
           ? gpa >> RMEM_PAGE_BITS : page;
}

static bool pages_at(const TdxGuest *tdx, uint64_t gpa, uint64_t count,
                     RestrictedPages *pages)
{
    uint64_t last = page_at(tdx, gpa + ((count - 1) << RMEM_PAGE_BITS));

    pages->first = page_at(tdx, gpa);
    pages->count = count;
    return pages->first != RESTRICTED_NO_PAGE
           && last == pages->first + count - 1;
}

static uint64_t fill_qualification(const RestrictedFill *fill)
{
    static const uint64_t access[] = {
        [MMU_DATA_LOAD] = EPT_READ,
        [MMU_DATA_STORE] = EPT_WRITE,
        [MMU_INST_FETCH] = EPT_FETCH,
    };

    return access[fill->access] | (fill->va ? EPT_GLA_VALID : 0);
}

static G_NORETURN void fill_ve(const RestrictedFill *fill)
{
    TdxVeInfo info = {
        .reason = TDX_EXIT_EPT_VIOLATION,
        .qualification = fill_qualification(fill),
        .gla = fill->va, .gpa = fill->pa | (fill->va & ~TARGET_PAGE_MASK),
    };

    tdx_raise_ve(fill->cpu, &info, fill->ra);
}

/*
 * The page is pending, or its address is wrong: raise #VE, unless the guest has
 * chosen to be stopped. A page-table walk cannot raise an exception.
 */
void tdx_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state)
{
    restricted_guest_fault(rm, fill, alias.gpa, state);
    if (!fill->walk && !tdx_ve_disabled(tdx_guest())) {
        fill_ve(fill);
    }
    restricted_fill_stop(fill, alias.gpa);
}

/*
 * No RAM is at this private address. A host maps nothing there but its
 * firmware: an EPT violation, which KVM does not resolve.
 */
static hwaddr private_mmio(TdxGuest *tdx, const RestrictedFill *fill,
                           RestrictedAlias alias)
{
    if (tdx->strict && alias.want == RESTRICTED_PRIVATE
        && !is_in_pc_hole(alias.gpa)
        && !restricted_is_mapped(alias.gpa, false)) {
        restricted_guest_fault(tdx->rm, fill, alias.gpa, RMEM_SHARED);
        restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_GUEST_FAULT,
                                (RestrictedPlace){ .cpu = fill->cpu },
                                "the guest reached a device at the private "
                                "address 0x%" HWADDR_PRIx ", where a TD has "
                                "nothing", alias.gpa);
        restricted_fill_stop(fill, alias.gpa);
    }
    return alias.gpa;
}

hwaddr tdx_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias)
{
    TdxGuest *tdx = tdx_guest();
    uint64_t page;
    RmemState state;

    /* Without TDVF, the hole is shadow RAM: a ROM, as far as a TD knows. */
    if (alias.want == RESTRICTED_SHARED) {
        if (tdx->strict && !fill->walk
            && (tdx->sections || !is_in_pc_hole(alias.gpa))) {
            fill_ve(fill);
        }
        return alias.gpa;
    }
    page = page_at(tdx, alias.gpa);
    if (page == RESTRICTED_NO_PAGE) {
        return private_mmio(tdx, fill, alias);
    }
    state = rmem_state(&rm->core, page);
    if (state != RMEM_PRIVATE) {
        tdx_fault(rm, fill, alias, state);
    }
    return alias.gpa + RESTRICTED_PRIVATE_VIEW;
}

/* Is the S bit of @gpa allowed by @reach, and no bit above it set? */
static bool reachable(const TdxGuest *tdx, uint64_t gpa, TdxReach reach)
{
    uint64_t shared = tdx_shared_bit(tdx);

    return gpa < shared << 1
           && (reach == TDX_PRIVATE_OR_SHARED || !(gpa & shared));
}

/* The address in the CPU's root region of memory that a leaf touches. */
static hwaddr leaf_address(TdxCall *call, uint64_t gpa, MMUAccessType access)
{
    RestrictedMemory *rm = call->tdx->rm;
    RestrictedFill fill = {
        .cpu = call->cpu, .pa = gpa, .access = access, .ra = call->ra,
    };
    RestrictedAlias alias = tdx_alias(rm, &fill);
    uint64_t page = page_at(call->tdx, alias.gpa);
    RmemState state;

    if (page == RESTRICTED_NO_PAGE) {
        return alias.gpa;           /* firmware is not in the backend */
    }
    state = restricted_cpu_touch(rm, page);
    if (state != (alias.want == RESTRICTED_SHARED ? RMEM_SHARED
                                                  : RMEM_PRIVATE)) {
        tdx_fault(rm, &fill, alias, state);
    }
    return alias.gpa + (state == RMEM_SHARED ? RESTRICTED_SHARED_VIEW
                                             : RESTRICTED_PRIVATE_VIEW);
}

static bool leaf_rw(TdxCall *call, uint64_t gpa, void *buf, size_t size,
                    TdxReach reach, MMUAccessType access)
{
    if (!reachable(call->tdx, gpa, reach)) {
        return false;
    }
    return address_space_rw(cpu_get_address_space(call->cpu, X86ASIdx_MEM),
                            leaf_address(call, gpa, access),
                            MEMTXATTRS_UNSPECIFIED, buf, size,
                            access == MMU_DATA_STORE) == MEMTX_OK;
}

bool tdx_read(TdxCall *call, uint64_t gpa, void *buf, size_t size,
              TdxReach reach)
{
    return leaf_rw(call, gpa, buf, size, reach, MMU_DATA_LOAD);
}

bool tdx_write(TdxCall *call, uint64_t gpa, const void *buf, size_t size,
               TdxReach reach)
{
    return leaf_rw(call, gpa, (void *)buf, size, reach, MMU_DATA_STORE);
}

/* Accepted by the guest, or placed by the launch. */
static bool is_accepted(const TdxGuest *tdx, const RmemRun *run)
{
    return run->state == RMEM_PRIVATE
           || (run->state == RMEM_PENDING
               && rmem_is_launch(&tdx->rm->core, run->first));
}

static void set_leaf(TdxGuest *tdx, const RestrictedPages *pages, int level)
{
    uint64_t end = pages->first + pages->count;

    for (uint64_t page = pages->first; page < end;
         page += RESTRICTED_PAGES_2M) {
        tdx->leaf[page / RESTRICTED_PAGES_2M] = level;
    }
}

static int leaf_level(const TdxGuest *tdx, uint64_t page)
{
    uint64_t first = page & ~(uint64_t)(RESTRICTED_PAGES_2M - 1);
    RmemRun run = rmem_run_at(&tdx->rm->core, first, RESTRICTED_PAGES_2M);

    return run.count == RESTRICTED_PAGES_2M && run.state == RMEM_PRIVATE
           ? tdx->leaf[page / RESTRICTED_PAGES_2M] : TDX_4K;
}

/*
 * ABI, TDG.MEM.PAGE.ACCEPT, after the operand checks. The host maps a free
 * range at the requested level; if it is split already, the sizes do not match.
 * TDX_DEFERRED: the host would have to provide the page first.
 */
static uint64_t accept_pages(TdxGuest *tdx, const RestrictedPages *pages,
                             int level, uint64_t rip)
{
    RmemRun run = rmem_run_at(&tdx->rm->core, pages->first, pages->count);
    bool uniform = run.count == pages->count;
    RestrictedChange change = {
        .ranges = pages, .n = 1, .event = RMEM_ACCEPT, .actor = RMEM_A_VCPU,
        .pc = rip,
    };

    if (is_accepted(tdx, &run) && uniform
        && leaf_level(tdx, pages->first) >= level) {
        restricted_violation(tdx->rm,
                             restricted_page_to_gpa(tdx->rm, pages->first),
                             pages->count, RMEM_ALREADY_ACCEPTED, rip);
        return TDX_PAGE_ALREADY_ACCEPTED | leaf_level(tdx, pages->first);
    }
    if (!uniform || is_accepted(tdx, &run)) {
        return TDX_PAGE_SIZE_MISMATCH | level;
    }
    if (run.state != RMEM_PENDING
        || !restricted_change(tdx->rm, &change, NULL)) {
        return level ? TDX_PAGE_SIZE_MISMATCH | level : TDX_DEFERRED;
    }
    set_leaf(tdx, pages, level);
    return TDX_SUCCESS;
}

typedef struct AcceptRequest {
    TdxCall call;
    uint64_t gpa;
    int level;
} AcceptRequest;

/* No other vCPU runs, and this one has completed the instruction. */
static void accept_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree AcceptRequest *req = data.host_ptr;
    TdxGuest *tdx = req->call.tdx;
    CPUX86State *env = cpu_env(cpu);
    uint64_t rip = env->eip - req->call.length;
    RestrictedFill fill = {
        .cpu = cpu, .pa = req->gpa, .access = MMU_DATA_STORE,
        .accepting = true,
    };
    RestrictedPages pages;
    uint64_t status = TDX_DEFERRED;

    if (pages_at(tdx, req->gpa, 1ull << (9 * req->level), &pages)) {
        status = accept_pages(tdx, &pages, req->level, rip);
    } else if (req->level && page_at(tdx, req->gpa) != RESTRICTED_NO_PAGE) {
        status = TDX_PAGE_SIZE_MISMATCH | req->level;
    }
    trace_rmem_tdx_accept(req->gpa, req->level, status);
    if (status != TDX_DEFERRED) {
        env->regs[R_EAX] = status;
        return;
    }
    /* An EPT violation exit; the guest tries again when it continues. */
    restricted_guest_fault(tdx->rm, &fill, req->gpa, RMEM_SHARED);
    env->eip = rip;
    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_GUEST_FAULT,
                            (RestrictedPlace){ cpu, rip },
                            "vCPU %d accepted the page at 0x%" PRIx64
                            ", which is not private", cpu->cpu_index,
                            req->gpa);
    restricted_stop_vm();
}

uint64_t tdx_page_accept(TdxCall *call)
{
    uint64_t rcx = call->env->regs[R_ECX];
    AcceptRequest req = {
        .call = *call, .gpa = rcx & TARGET_PAGE_MASK, .level = rcx & 7,
    };
    int max = call->tdx->accept_1g ? TDX_1G : TDX_2M;

    if (req.level > max || rcx & 0xff8
        || req.gpa & ((1ull << TDX_LEVEL_BITS(req.level)) - 1)
        || !reachable(call->tdx, req.gpa, TDX_PRIVATE_ONLY)) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    async_safe_run_on_cpu(call->cpu, accept_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&req, sizeof(req))));
    return TDX_DEFERRED;
}

TdxMapping tdx_mapping(TdxCall *call, uint64_t gpa)
{
    TdxGuest *tdx = call->tdx;
    uint64_t page = page_at(tdx, gpa);
    RestrictedFill fill = {
        .cpu = call->cpu, .pa = gpa, .access = MMU_DATA_LOAD, .ra = call->ra,
    };
    RmemRun run;

    if (page == RESTRICTED_NO_PAGE) {
        return (TdxMapping){ TDX_4K, false };   /* the firmware, or nothing */
    }
    run = rmem_run_at(&tdx->rm->core, page, 1);
    if (run.state != RMEM_PRIVATE && run.state != RMEM_PENDING) {
        /* An EPT violation exit; the guest tries again when it continues. */
        restricted_guest_fault(tdx->rm, &fill, gpa, run.state);
        restricted_fill_stop(&fill, gpa);
    }
    return (TdxMapping){ leaf_level(tdx, page), !is_accepted(tdx, &run) };
}
