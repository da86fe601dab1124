/*
 * SEV-ES, SEV-SNP: VMGEXIT, by the GHCB MSR or by a GHCB page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, "GHCB Layout", "GHCB MSR Protocol", "NAE Event".
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/profiles/sev/exits.h"
#include "hw/restricted-memory/profiles/sev/ghcb.h"
#include "hw/restricted-memory/sev-tables.inc"
#include "hw/restricted-memory/trace.h"

#define MSR_VALUE(msr)  ((msr) & 0xfff)
#define VERSION_MIN     1
#define VERSION_MAX     2

/* GHCB, "Hypervisor Features" */
#define FEATURE_SNP         (UINT64_C(1) << 0)
#define FEATURE_AP_CREATION (UINT64_C(1) << 1)
#define FEATURES            (FEATURE_SNP | FEATURE_AP_CREATION)

enum {
    MSR_INFO_RESP = 0x001, MSR_INFO_REQ = 0x002, MSR_CPUID_REQ = 0x004,
    MSR_CPUID_RESP = 0x005, MSR_AP_RESET_HOLD = 0x006,
    MSR_PREFERRED_REQ = 0x010, MSR_PREFERRED_RESP = 0x011,
    MSR_REGISTER_REQ = 0x012, MSR_REGISTER_RESP = 0x013, MSR_PSC_REQ = 0x014,
    MSR_PSC_RESP = 0x015, MSR_FEATURES_REQ = 0x080,
    MSR_FEATURES_RESP = 0x081, MSR_TERMINATE = 0x100,
};
#define MSR_CPUID_REGISTER  (UINT64_C(3) << 30)
#define MSR_PSC_ERROR       (UINT64_C(1) << 63)

/* GHCB: exit codes above those of instructions */
enum {
    EXIT_MMIO_READ = 0x80000001, EXIT_MMIO_WRITE, EXIT_NMI_COMPLETE,
    EXIT_AP_RESET_HOLD, EXIT_AP_JUMP_TABLE, EXIT_PSC = 0x80000010,
    EXIT_GUEST_REQUEST, EXIT_EXT_GUEST_REQUEST, EXIT_AP_CREATION,
    EXIT_APIC_IDS = 0x80000017, EXIT_RUN_VMPL,
    EXIT_FEATURES = 0x8000fffd, EXIT_TERMINATE, EXIT_UNSUPPORTED,
};

/* Generic; what Linux calls SEV_TERM_SET_GEN, GHCB_SEV_ES_GEN_REQ */
enum { TERM_SET_GENERAL, TERM_REASON_GENERAL = 0 };

bool sev_ghcb_has(const SevExit *exit, unsigned offset)
{
    unsigned bit = offset / 8;

    return exit->ghcb[GHCB_VALID + bit / 8] >> (bit % 8) & 1;
}

uint64_t sev_ghcb_get(const SevExit *exit, unsigned offset)
{
    return ldq_le_p(exit->ghcb + offset);
}

void sev_ghcb_put(SevExit *exit, unsigned offset, uint64_t value)
{
    unsigned bit = offset / 8;

    stq_le_p(exit->ghcb + offset, value);
    exit->ghcb[GHCB_VALID + bit / 8] |= 1 << (bit % 8);
}

void sev_malformed(SevExit *exit, uint64_t reason)
{
    exit->out1 = GHCB_MALFORMED;
    exit->out2 = reason;
}

uint8_t *sev_ghcb_scratch(SevExit *exit, uint64_t size)
{
    uint64_t gpa = sev_ghcb_get(exit, GHCB_SCRATCH);
    uint8_t *found = NULL;

    if (!sev_ghcb_has(exit, GHCB_SCRATCH)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return NULL;
    }
    if ((gpa & TARGET_PAGE_MASK) == exit->gpa) {
        if ((gpa & ~TARGET_PAGE_MASK) >= GHCB_SHARED
            && (gpa & ~TARGET_PAGE_MASK) + size
               <= GHCB_SHARED + GHCB_SHARED_SIZE) {
            found = exit->ghcb + (gpa & ~TARGET_PAGE_MASK);
        }
    } else if (size <= 16 * 1024) {
        found = restricted_ram(exit->sev->rm, gpa, size, RMEM_SHARED);
    }
    if (!found) {
        sev_malformed(exit, GHCB_INVALID_SCRATCH);
    }
    return found;
}

void sev_terminate(SevExit *exit, unsigned set, unsigned reason)
{
    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_FATAL_ERROR,
                            (RestrictedPlace){ exit->cpu, exit->env->eip },
                            "SEV guest reports a fatal error of set %u, code "
                            "0x%x, vCPU %d", set, reason, exit->cpu->cpu_index);
    bql_lock();
    qemu_system_guest_panicked(NULL);
    bql_unlock();
    cpu_stop_current();
    exit->cpu->exception_index = EXCP_INTERRUPT;
    cpu_loop_exit(exit->cpu);
}

/* The host cannot read the GHCB, so it cannot answer. Stop the VM. */
static G_NORETURN void bad_ghcb(SevExit *exit, const char *what)
{
    RestrictedFill fill = { .cpu = exit->cpu, .ra = exit->ra };

    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_MISUSE,
                            (RestrictedPlace){ exit->cpu, exit->env->eip },
                            "VMGEXIT of vCPU %d: GHCB 0x%" PRIx64 " %s",
                            exit->cpu->cpu_index, exit->vcpu->ghcb, what);
    restricted_violation(exit->sev->rm, exit->gpa, 1, RMEM_OUT_OF_RANGE,
                         exit->env->eip);
    restricted_fill_stop(&fill, exit->gpa);
    g_assert_not_reached();
}

void sev_ghcb_finish(SevExit *exit)
{
    sev_ghcb_put(exit, GHCB_INFO1, exit->out1);
    sev_ghcb_put(exit, GHCB_INFO2, exit->out2);
    trace_rmem_sev_exit(exit->cpu->cpu_index, exit->code, exit->info1,
                        exit->info2, exit->out1, exit->out2);
}

/* No other vCPU runs, and this one has completed the instruction. */
static void psc_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree SevExit *exit = data.host_ptr;
    uint64_t request = exit->vcpu->ghcb;

    if (!exit->ghcb) {
        exit->vcpu->ghcb = sev_psc_page(exit, request)
                           ? MSR_PSC_RESP : MSR_PSC_RESP | MSR_PSC_ERROR;
        trace_rmem_sev_msr(cpu->cpu_index, request, exit->vcpu->ghcb);
        return;
    }
    /* Another vCPU may have made the page private meanwhile. */
    exit->ghcb = restricted_ram(exit->sev->rm, exit->gpa, RMEM_PAGE_SIZE,
                                RMEM_SHARED);
    if (exit->ghcb) {
        sev_psc_list(exit);
        sev_ghcb_finish(exit);
    }
}

static void psc(SevExit *exit)
{
    async_safe_run_on_cpu(exit->cpu, psc_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(exit,
                                                        sizeof(*exit))));
}

/* The answer keeps the number of the register. */
static uint64_t msr_cpuid(SevExit *exit, uint64_t request)
{
    static const int order[] = { R_EAX, R_EBX, R_ECX, R_EDX };
    uint32_t regs[4];

    cpu_x86_cpuid(exit->env, request >> 32, 0, &regs[R_EAX], &regs[R_EBX],
                  &regs[R_ECX], &regs[R_EDX]);
    return (uint64_t)regs[order[extract64(request, 30, 2)]] << 32
           | (request & MSR_CPUID_REGISTER) | MSR_CPUID_RESP;
}

uint64_t sev_ghcb_msr_information(void)
{
    return (uint64_t)VERSION_MAX << 48 | (uint64_t)VERSION_MIN << 32
           | (uint64_t)SEV_C_BIT << 24 | MSR_INFO_RESP;
}

static uint64_t answer_msr(SevExit *exit, uint64_t request)
{
    switch (MSR_VALUE(request)) {
    case MSR_INFO_REQ:
        return sev_ghcb_msr_information();
    case MSR_CPUID_REQ:
        return msr_cpuid(exit, request);
    case MSR_AP_RESET_HOLD:
        sev_ap_park(exit);
    case MSR_PREFERRED_REQ:
        return ~UINT64_C(0xfff) | MSR_PREFERRED_RESP;   /* no preference */
    case MSR_REGISTER_REQ:
        exit->vcpu->registered = request & ~UINT64_C(0xfff);
        return exit->vcpu->registered | MSR_REGISTER_RESP;
    case MSR_FEATURES_REQ:
        return FEATURES << 12 | MSR_FEATURES_RESP;
    case MSR_TERMINATE:
        sev_terminate(exit, extract64(request, 12, 4),
                      extract64(request, 16, 8));
    default:
        g_assert_not_reached();
    }
}

/* ghcb.toml has the requests. After another one the guest just goes on. */
static void msr_protocol(SevExit *exit)
{
    uint64_t request = exit->vcpu->ghcb;
    const TableGhcbRequest *row = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(sev_ghcb_request_rows); i++) {
        if (sev_ghcb_request_rows[i].request == MSR_VALUE(request)) {
            row = &sev_ghcb_request_rows[i];
        }
    }
    if (row && row->level == TABLE_SNP && exit->sev->level != SEV_SNP) {
        exit->gpa = request;
        bad_ghcb(exit, "is a request that only an SNP guest has");
    }
    if (row && MSR_VALUE(request) == MSR_PSC_REQ) {
        psc(exit);
        return;
    }
    if (row) {
        exit->vcpu->ghcb = answer_msr(exit, request);
    }
    trace_rmem_sev_msr(exit->cpu->cpu_index, request, exit->vcpu->ghcb);
}

static void snp_exit(SevExit *exit)
{
    switch (exit->code) {
    case EXIT_GUEST_REQUEST:
    case EXIT_EXT_GUEST_REQUEST:
        sev_request(exit, exit->code == EXIT_EXT_GUEST_REQUEST);
        break;
    case EXIT_AP_CREATION:
        sev_ap_creation(exit);
        break;
    case EXIT_APIC_IDS:
        sev_ap_ids(exit);
        break;
    case EXIT_RUN_VMPL:
        sev_malformed(exit, GHCB_INVALID_INPUT);    /* only VMPL 0 */
        break;
    default:
        sev_malformed(exit, GHCB_INVALID_EVENT);
    }
}

static bool is_of_snp(uint64_t code)
{
    const TableGhcbExit *row = code <= UINT32_MAX
                               ? RESTRICTED_ROW(sev_ghcb_exit_rows, code)
                               : NULL;

    return row && row->level == TABLE_SNP;
}

static void page_exit(SevExit *exit)
{
    switch (exit->code) {
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE:
        sev_exit_mmio(exit, exit->code == EXIT_MMIO_WRITE);
        break;
    case EXIT_NMI_COMPLETE:
        break;                      /* here, IRET ends an NMI */
    case EXIT_AP_JUMP_TABLE:
        sev_ap_jump_table(exit);
        break;
    case EXIT_FEATURES:
        exit->out2 = FEATURES;     /* KVM: also for ES */
        break;
    case EXIT_TERMINATE:
        sev_terminate(exit, exit->info1 & 0xf, exit->info1 >> 4 & 0xff);
    case EXIT_UNSUPPORTED:
        restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_FATAL_ERROR,
                                (RestrictedPlace){ exit->cpu, exit->env->eip },
                                "SEV guest reports a fatal error: it cannot "
                                "handle exit 0x%" PRIx64, exit->info1);
        sev_terminate(exit, TERM_SET_GENERAL, TERM_REASON_GENERAL);
    default:
        if (sev_exit_instruction(exit)) {
            break;
        }
        if (exit->sev->level == SEV_SNP) {
            snp_exit(exit);
        } else {
            sev_malformed(exit, is_of_snp(exit->code) ? GHCB_MISSING_INPUT
                                                      : GHCB_INVALID_EVENT);
        }
    }
}

static void page_protocol(SevExit *exit)
{
    bool snp = exit->sev->level == SEV_SNP;

    exit->gpa = exit->vcpu->ghcb & TARGET_PAGE_MASK;
    if (!exit->gpa
        || restricted_page_at(exit->sev->rm, exit->gpa) == RESTRICTED_NO_PAGE) {
        /* KVM: there is no GHCB, so the guest just goes on. */
        restricted_violation(exit->sev->rm, exit->gpa, 1, RMEM_OUT_OF_RANGE,
                             exit->env->eip);
        return;
    }
    if (snp && exit->vcpu->registered != exit->gpa) {
        bad_ghcb(exit, "is not registered");
    }
    exit->ghcb = restricted_ram(exit->sev->rm, exit->gpa, RMEM_PAGE_SIZE,
                                RMEM_SHARED);
    if (!exit->ghcb) {
        bad_ghcb(exit, "is not in shared memory");
    }
    exit->code = sev_ghcb_get(exit, GHCB_EXIT_CODE);
    exit->info1 = sev_ghcb_get(exit, GHCB_INFO1);
    exit->info2 = sev_ghcb_get(exit, GHCB_INFO2);
    if (ldl_le_p(exit->ghcb + GHCB_USAGE)) {
        sev_malformed(exit, GHCB_INVALID_USAGE);
    } else if (!sev_ghcb_has(exit, GHCB_EXIT_CODE)
               || !sev_ghcb_has(exit, GHCB_INFO1)
               || !sev_ghcb_has(exit, GHCB_INFO2)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
    } else if (exit->code == EXIT_AP_RESET_HOLD) {
        sev_ap_park(exit);
    } else if (exit->code == EXIT_PSC && snp) {
        psc(exit);
        return;
    } else {
        page_exit(exit);
    }
    sev_ghcb_finish(exit);
}

void sev_vmgexit(SevGuest *sev, const RestrictedInsn *insn)
{
    SevExit exit = {
        .sev = sev, .vcpu = sev_vcpu(insn->cpu), .cpu = insn->cpu,
        .env = cpu_env(insn->cpu), .length = insn->length, .ra = insn->ra,
    };

    if (exit.vcpu->ghcb & 0xfff) {
        msr_protocol(&exit);
    } else {
        page_protocol(&exit);
    }
}
