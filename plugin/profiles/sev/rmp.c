/*
 * SEV-SNP: PVALIDATE, RMPADJUST, RMPQUERY.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * APM, volume 3. A page of the backend stands for an RMP entry: a pending page
 * is assigned and not validated. There is only VMPL 0.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/profiles/sev/ghcb.h"
#include "hw/restricted-memory/profiles/sev/memory.h"
#include "hw/restricted-memory/profiles/sev/rmp.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "hw/restricted-memory/trace.h"

/* APM, volume 3, "PVALIDATE": return codes */
enum { RMP_SUCCESS, RMP_FAIL_INPUT, RMP_FAIL_PERMISSION,
       RMP_FAIL_SIZEMISMATCH = 6 };

enum { RMP_VMPLS = 4 };
#define RMP_ATTR_VMSA   (UINT64_C(1) << 16)
#define RMP_ALL_PERMS   0x0f

/* The memory that a register names, after a walk of the page tables. */
typedef struct RmpTarget {
    uint64_t gpa;
    uint64_t pages;
    uint64_t first;                 /* or RESTRICTED_NO_PAGE */
    bool shared;                    /* mapped without the C-bit */
} RmpTarget;

bool sev_is_validated(const SevGuest *sev, uint64_t page)
{
    const Rmem *core = &sev->rm->core;
    RmemState state = rmem_state(core, page);

    return state == RMEM_PRIVATE
           || (state == RMEM_PENDING && rmem_is_launch(core, page));
}

static uint64_t address(const CPUX86State *env, const RestrictedInsn *insn)
{
    bool wide = env->hflags & HF_CS64_MASK
                && !(insn->prefix & RESTRICTED_ADR);

    return wide ? env->regs[R_EAX] : (uint32_t)env->regs[R_EAX];
}

/* Walk the page tables; #PF if the address is not mapped. */
static RmpTarget translate(SevGuest *sev, const RestrictedInsn *insn,
                           uint64_t va, uint64_t pages)
{
    CPUX86State *env = cpu_env(insn->cpu);
    TranslateForDebugResult found;
    RmpTarget target = { .pages = pages };

    if (!cpu_translate_for_debug(insn->cpu, va, &found)) {
        env->cr[2] = va;
        raise_exception_err_ra(env, EXCP0E_PAGE, 0, insn->ra);
    }
    target.gpa = found.physaddr & ~SEV_C_MASK & TARGET_PAGE_MASK;
    target.shared = env->cr[0] & CR0_PG_MASK && !(found.physaddr & SEV_C_MASK);
    target.first = restricted_page_at(sev->rm, target.gpa);
    return target;
}

/* Does the RMP have one entry for all of the target? */
static bool is_one_entry(const SevGuest *sev, const RmpTarget *target)
{
    uint64_t last = target->gpa + ((target->pages - 1) << RMEM_PAGE_BITS);

    return target->pages == 1
           || (!sev->split[target->first / RESTRICTED_PAGES_2M]
               && restricted_page_at(sev->rm, last)
                  == target->first + target->pages - 1);
}

static bool change(SevGuest *sev, const RmpTarget *target, RmemEvent event,
                   uint64_t rip)
{
    RestrictedPages pages = { target->first, target->pages };
    RestrictedChange change = {
        .ranges = &pages, .n = 1, .event = event, .actor = RMEM_A_VCPU,
        .pc = rip,
    };

    return restricted_change(sev->rm, &change, NULL);
}

/*
 * Rescinding a validation drops the content: a guest must not rely on what it
 * finds when it validates again.
 */
static unsigned validate(SevGuest *sev, const RmpTarget *target, bool valid,
                         uint64_t rip, bool *unchanged)
{
    RmemRun run = rmem_run_at(&sev->rm->core, target->first, target->pages);
    bool was = sev_is_validated(sev, target->first);

    if (run.count != target->pages) {
        return RMP_FAIL_SIZEMISMATCH;
    }
    if (target->pages == 1) {
        sev->split[target->first / RESTRICTED_PAGES_2M] = true;    /* PSMASH */
    }
    *unchanged = was == valid;
    if (*unchanged && valid) {
        /* A host could have given the guest another page in between. */
        restricted_violation(sev->rm, target->gpa, target->pages,
                             RMEM_ALREADY_ACCEPTED, rip);
    }
    if (*unchanged) {
        return RMP_SUCCESS;
    }
    /* A page that the launch has placed is validated without storage. */
    if (run.state == RMEM_PENDING && !change(sev, target, RMEM_ACCEPT, rip)) {
        return RMP_FAIL_INPUT;
    }
    if (!valid && !change(sev, target, RMEM_DISCARD, rip)) {
        return RMP_FAIL_INPUT;
    }
    return RMP_SUCCESS;
}

/* Flags as after a comparison of EAX with 0, except CF. */
static uint32_t status_flags(unsigned status, bool unchanged)
{
    return (status ? 0 : CC_Z) | (ctpop8(status) & 1 ? 0 : CC_P)
           | (unchanged ? CC_C : 0);
}

typedef struct PvalidateRequest {
    RmpTarget target;
    bool valid;
    uint64_t rip;
} PvalidateRequest;

/* No other vCPU runs, and this one has completed the instruction. */
static void pvalidate_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree PvalidateRequest *req = data.host_ptr;
    SevGuest *sev = sev_guest();
    CPUX86State *env = cpu_env(cpu);
    RmpTarget *target = &req->target;
    bool unchanged = false;
    unsigned status = RMP_SUCCESS;

    if (target->first != RESTRICTED_NO_PAGE) {
        if (!is_one_entry(sev, target)) {
            status = RMP_FAIL_SIZEMISMATCH;
        } else if (rmem_state(&sev->rm->core, target->first) == RMEM_SHARED) {
            /* A nested page fault: the host provides a private page. */
            rmem_count(&sev->rm->core, RMEM_C_IMPLICIT_CONVERSIONS, 1);
            sev_convert(sev, target->gpa, target->pages, RMEM_TO_PRIVATE,
                        req->rip, RMEM_F_IMPLICIT);
        }
    }
    if (status == RMP_SUCCESS && target->first != RESTRICTED_NO_PAGE) {
        status = validate(sev, target, req->valid, req->rip, &unchanged);
    }
    trace_rmem_sev_pvalidate(target->gpa, target->pages, req->valid, status,
                             unchanged);
    env->regs[R_EAX] = status;
    /* Outside of cpu_exec() all flags are in env->eflags. */
    env->eflags &= ~(CC_O | CC_S | CC_Z | CC_A | CC_P | CC_C);
    env->eflags |= status_flags(status, unchanged);
}

static void fail_input(CPUX86State *env)
{
    env->regs[R_EAX] = RMP_FAIL_INPUT;
    env->cc_src = status_flags(RMP_FAIL_INPUT, false);
}

/* RAX address, ECX 1 for 2 MiB, EDX[0] validate. EAX status, CF no change. */
static void pvalidate(SevGuest *sev, const RestrictedInsn *insn)
{
    CPUX86State *env = cpu_env(insn->cpu);
    uint32_t size = env->regs[R_ECX];
    uint64_t va = address(env, insn);
    uint64_t pages = size ? RESTRICTED_PAGES_2M : 1;
    PvalidateRequest req = { .valid = env->regs[R_EDX] & 1, .rip = env->eip };

    if (size > 1 || va & ((pages << RMEM_PAGE_BITS) - 1)) {
        fail_input(env);
        return;
    }
    req.target = translate(sev, insn, va, pages);
    if (req.target.shared && req.target.first != RESTRICTED_NO_PAGE) {
        /*
         * APM, volume 2, 15.36.7: what a shadow-stack access gets that must be
         * private and is not. That PVALIDATE gets it, too, is inferred.
         */
        env->cr[2] = va;
        raise_exception_err_ra(env, EXCP0E_PAGE, PG_ERROR_P_MASK
                               | PG_ERROR_RSVD_MASK, insn->ra);
    }
    async_safe_run_on_cpu(insn->cpu, pvalidate_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&req, sizeof(req))));
}

/* Like any use of a page that is not validated: #VC. */
static void require_validated(SevGuest *sev, const RestrictedInsn *insn,
                              const RmpTarget *target, uint64_t va)
{
    RestrictedFill fill = {
        .cpu = insn->cpu, .va = va, .pa = target->gpa, .ra = insn->ra,
        .access = MMU_DATA_STORE,
    };

    if (target->first != RESTRICTED_NO_PAGE && !target->shared
        && rmem_state(&sev->rm->core, target->first) == RMEM_PENDING
        && !sev_is_validated(sev, target->first)) {
        restricted_guest_fault(sev->rm, &fill, target->gpa, RMEM_PENDING);
        sev_raise_vc(insn->cpu, 0x404, insn->ra);
    }
}

static unsigned adjust(SevGuest *sev, const RmpTarget *target,
                       uint64_t attributes)
{
    uint8_t vmpl = attributes;

    if (vmpl >= RMP_VMPLS) {
        return RMP_FAIL_INPUT;
    }
    if (!vmpl) {
        return RMP_FAIL_PERMISSION; /* only less privileged VMPLs */
    }
    if (target->first == RESTRICTED_NO_PAGE) {
        return RMP_SUCCESS;         /* firmware is not in the backend */
    }
    if (target->shared || !sev_is_validated(sev, target->first)) {
        return RMP_FAIL_INPUT;
    }
    if (!is_one_entry(sev, target)) {
        return RMP_FAIL_SIZEMISMATCH;
    }
    if (attributes & RMP_ATTR_VMSA) {
        g_hash_table_add(sev->vmsas, GUINT_TO_POINTER(target->gpa >> 12));
    } else {
        g_hash_table_remove(sev->vmsas, GUINT_TO_POINTER(target->gpa >> 12));
    }
    return RMP_SUCCESS;
}

/* RAX address, RCX 1 for 2 MiB, RDX VMPL, permissions, VMSA. EAX status. */
static void rmpadjust(SevGuest *sev, const RestrictedInsn *insn)
{
    CPUX86State *env = cpu_env(insn->cpu);
    uint64_t va = env->regs[R_EAX], size = env->regs[R_ECX];
    uint64_t pages = size ? RESTRICTED_PAGES_2M : 1;
    RmpTarget target;

    /* The offset in the page does not matter: OVMF relies on that. */
    va &= TARGET_PAGE_MASK;
    if (size > 1 || va & ((pages << RMEM_PAGE_BITS) - 1)) {
        env->regs[R_EAX] = RMP_FAIL_INPUT;
        return;
    }
    target = translate(sev, insn, va, pages);
    require_validated(sev, insn, &target, va);
    bql_lock();
    env->regs[R_EAX] = adjust(sev, &target, env->regs[R_EDX]);
    bql_unlock();
    trace_rmem_sev_rmpadjust(target.gpa, pages, env->regs[R_EDX],
                             env->regs[R_EAX]);
}

/* RAX address, DL VMPL. EAX status, RCX 1 for 2 MiB, RDX as for RMPADJUST. */
static void rmpquery(SevGuest *sev, const RestrictedInsn *insn)
{
    CPUX86State *env = cpu_env(insn->cpu);
    uint64_t va = env->regs[R_EAX];
    uint8_t vmpl = env->regs[R_EDX];
    RmpTarget target;
    bool vmsa;

    if (vmpl >= RMP_VMPLS) {
        env->regs[R_EAX] = RMP_FAIL_INPUT;
        return;
    }
    target = translate(sev, insn, va, 1);
    require_validated(sev, insn, &target, va);
    if (target.first == RESTRICTED_NO_PAGE || target.shared
        || !sev_is_validated(sev, target.first)) {
        env->regs[R_EAX] = RMP_FAIL_INPUT;
        return;
    }
    bql_lock();
    vmsa = g_hash_table_contains(sev->vmsas,
                                 GUINT_TO_POINTER(target.gpa >> 12));
    bql_unlock();
    env->regs[R_EAX] = RMP_SUCCESS;
    env->regs[R_ECX] = !sev->split[target.first / RESTRICTED_PAGES_2M];
    env->regs[R_EDX] = vmpl | (vmpl ? 0 : RMP_ALL_PERMS << 8)
                       | (vmsa ? RMP_ATTR_VMSA : 0);
}

typedef struct RmpInsn {
    uint8_t opcode, prefix;
    bool only_64bit;
    void (*run)(SevGuest *sev, const RestrictedInsn *insn);
} RmpInsn;

static const RmpInsn rmp_insns[] = {
    { RESTRICTED_PVALIDATE, RESTRICTED_REPNZ, false, pvalidate },
    { RESTRICTED_RMPADJUST, RESTRICTED_REPZ, true, rmpadjust },
    { RESTRICTED_RMPQUERY, RESTRICTED_REPZ, true, rmpquery },
};

bool sev_instruction(RestrictedMemory *rm, const RestrictedInsn *insn)
{
    SevGuest *sev = sev_guest();
    CPUX86State *env = cpu_env(insn->cpu);

    if (insn->opcode == RESTRICTED_VMGEXIT) {
        sev_vmgexit(sev, insn);
        return true;
    }
    for (size_t i = 0; i < ARRAY_SIZE(rmp_insns); i++) {
        const RmpInsn *rmp = &rmp_insns[i];

        if (sev->level != SEV_SNP || rmp->opcode != insn->opcode
            || !(rmp->prefix & insn->prefix)
            || (rmp->only_64bit && !(env->hflags & HF_CS64_MASK))) {
            continue;
        }
        if (env->hflags & HF_CPL_MASK) {
            raise_exception_err_ra(env, EXCP0D_GPF, 0, insn->ra);
        }
        rmp->run(sev, insn);
        return true;
    }
    return false;
}
