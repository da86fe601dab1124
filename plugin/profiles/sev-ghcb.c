/*
 * SEV-ES, SEV-SNP: VMGEXIT, by the GHCB MSR or by a GHCB page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, chapters 2.3 "GHCB Layout", 2.3.1 "GHCB MSR Protocol", 4 "NAE Event".
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "exec/address-spaces.h"
#include "exec/exec-all.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "sev.h"
#include "trace.h"

#define MSR_VALUE(msr)  ((msr) & 0xfff)
#define VERSION_MIN     1
#define VERSION_MAX     2

/* GHCB, "Hypervisor Features" */
#define FEATURE_SNP         (UINT64_C(1) << 0)
#define FEATURE_AP_CREATION (UINT64_C(1) << 1)

enum {
    MSR_INFO_RESP = 0x001, MSR_INFO_REQ = 0x002, MSR_CPUID_REQ = 0x004,
    MSR_CPUID_RESP = 0x005, MSR_AP_RESET_HOLD = 0x006,
    MSR_PREFERRED_REQ = 0x010, MSR_PREFERRED_RESP = 0x011,
    MSR_REGISTER_REQ = 0x012, MSR_REGISTER_RESP = 0x013, MSR_PSC_REQ = 0x014,
    MSR_PSC_RESP = 0x015, MSR_VMPL_REQ = 0x016, MSR_VMPL_RESP = 0x017,
    MSR_FEATURES_REQ = 0x080, MSR_FEATURES_RESP = 0x081,
    MSR_TERMINATE = 0x100,
};

/* GHCB, tables 6 and 7: exit codes above those of instructions */
enum {
    EXIT_MMIO_READ = 0x80000001, EXIT_MMIO_WRITE, EXIT_NMI_COMPLETE,
    EXIT_AP_RESET_HOLD, EXIT_AP_JUMP_TABLE, EXIT_PSC = 0x80000010,
    EXIT_GUEST_REQUEST, EXIT_EXT_GUEST_REQUEST, EXIT_AP_CREATION,
    EXIT_APIC_IDS = 0x80000017, EXIT_RUN_VMPL,
    EXIT_FEATURES = 0x8000fffd, EXIT_TERMINATE, EXIT_UNSUPPORTED,
};

/* Generic; what Linux calls SEV_TERM_SET_GEN, GHCB_SEV_ES_GEN_REQ */
enum { TERM_SET_GENERAL, TERM_REASON_GENERAL = 0 };

static uint64_t features(const SevGuest *sev)
{
    return sev->level == SEV_SNP ? FEATURE_SNP | FEATURE_AP_CREATION : 0;
}

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
    error_report("SEV guest reports a fatal error of set %u, code 0x%x, "
                 "vCPU %d, RIP 0x" TARGET_FMT_lx, set, reason,
                 exit->cpu->cpu_index, exit->env->eip);
    bql_lock();
    qemu_system_guest_panicked(NULL);
    bql_unlock();
    cpu_stop_current();
    exit->cpu->exception_index = EXCP_INTERRUPT;
    cpu_loop_exit(exit->cpu);
}

/* A GHCB that no host could read; nothing can be answered. */
static G_NORETURN void bad_ghcb(SevExit *exit, const char *what)
{
    RestrictedFill fill = { .cpu = exit->cpu, .ra = exit->ra };

    error_report("VMGEXIT, vCPU %d, RIP 0x" TARGET_FMT_lx ": GHCB 0x%" PRIx64
                 " %s", exit->cpu->cpu_index, exit->env->eip,
                 exit->vcpu->ghcb, what);
    restricted_violation(exit->sev->rm, exit->gpa, 1, RMEM_OUT_OF_RANGE,
                         exit->env->eip);
    restricted_fill_stop(&fill);
    g_assert_not_reached();
}

void sev_ghcb_finish(SevExit *exit)
{
    sev_ghcb_put(exit, GHCB_INFO1, exit->out1);
    sev_ghcb_put(exit, GHCB_INFO2, exit->out2);
    trace_rmem_sev_exit(exit->cpu->cpu_index, exit->code, exit->info1,
                        exit->info2, exit->out1, exit->out2);
}

/* No other vCPU runs, and this one is behind the instruction. */
static void psc_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree SevExit *exit = data.host_ptr;
    uint64_t request = exit->vcpu->ghcb;

    if (!exit->ghcb) {
        exit->vcpu->ghcb = MSR_PSC_RESP
                           | sev_psc_page(exit, request) << 32;
        trace_rmem_sev_msr(cpu->cpu_index, request, exit->vcpu->ghcb);
        return;
    }
    /* Another vCPU may have taken the page back meanwhile. */
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

static uint64_t msr_cpuid(SevExit *exit, uint64_t request)
{
    uint32_t regs[4];

    cpu_x86_cpuid(exit->env, request >> 32, 0, &regs[R_EAX], &regs[R_EBX],
                  &regs[R_ECX], &regs[R_EDX]);
    /* The field counts EAX, EBX, ECX, EDX; QEMU's numbers are x86's. */
    switch (extract64(request, 30, 2)) {
    case 0:
        return (uint64_t)regs[R_EAX] << 32 | MSR_CPUID_RESP;
    case 1:
        return (uint64_t)regs[R_EBX] << 32 | MSR_CPUID_RESP;
    case 2:
        return (uint64_t)regs[R_ECX] << 32 | MSR_CPUID_RESP;
    default:
        return (uint64_t)regs[R_EDX] << 32 | MSR_CPUID_RESP;
    }
}

static uint64_t msr_info(void)
{
    return (uint64_t)VERSION_MAX << 48 | (uint64_t)VERSION_MIN << 32
           | (uint64_t)SEV_C_BIT << 24 | MSR_INFO_RESP;
}

static void msr_protocol(SevExit *exit)
{
    uint64_t request = exit->vcpu->ghcb, answer = 0;
    bool snp = exit->sev->level == SEV_SNP;

    switch (MSR_VALUE(request)) {
    case MSR_INFO_REQ:
        answer = msr_info();
        break;
    case MSR_CPUID_REQ:
        answer = msr_cpuid(exit, request);
        break;
    case MSR_AP_RESET_HOLD:
        sev_ap_park(exit);
    case MSR_PREFERRED_REQ:
        /* No preference. */
        answer = snp ? ~UINT64_C(0xfff) | MSR_PREFERRED_RESP : 0;
        break;
    case MSR_REGISTER_REQ:
        if (snp) {
            exit->vcpu->registered = request & ~UINT64_C(0xfff);
            answer = exit->vcpu->registered | MSR_REGISTER_RESP;
        }
        break;
    case MSR_PSC_REQ:
        if (snp) {
            psc(exit);
            return;
        }
        break;
    case MSR_VMPL_REQ:
        /* There is no other VMPL: refused by an error in bits 63:32. */
        answer = snp ? UINT64_C(1) << 32 | MSR_VMPL_RESP : 0;
        break;
    case MSR_FEATURES_REQ:
        answer = features(exit->sev) << 12 | MSR_FEATURES_RESP;
        break;
    case MSR_TERMINATE:
        sev_terminate(exit, extract64(request, 12, 4),
                      extract64(request, 16, 8));
    default:
        break;
    }
    trace_rmem_sev_msr(exit->cpu->cpu_index, request, answer);
    if (!answer) {
        /* KVM ends the guest for a request that it does not know. */
        exit->gpa = request;
        bad_ghcb(exit, "is no request that a host of this guest knows");
    }
    exit->vcpu->ghcb = answer;
}

static void mmio(SevExit *exit, bool write)
{
    uint8_t *buffer = exit->info2 && exit->info2 <= GHCB_SHARED_SIZE
                      ? sev_ghcb_scratch(exit, exit->info2) : NULL;

    if (!exit->info2 || exit->info2 > GHCB_SHARED_SIZE) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
    } else if (buffer) {
        exit->cpu->mem_io_pc = exit->ra;
        address_space_rw(&address_space_memory, exit->info1 & ~SEV_C_MASK,
                         MEMTXATTRS_UNSPECIFIED, buffer, exit->info2, write);
    }
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
        sev_malformed(exit, GHCB_INVALID_INPUT);    /* there is VMPL 0 */
        break;
    default:
        sev_malformed(exit, GHCB_INVALID_EVENT);
    }
}

static void page_exit(SevExit *exit)
{
    switch (exit->code) {
    case EXIT_MMIO_READ:
    case EXIT_MMIO_WRITE:
        mmio(exit, exit->code == EXIT_MMIO_WRITE);
        break;
    case EXIT_NMI_COMPLETE:
        break;                      /* NMIs end by IRET here */
    case EXIT_AP_JUMP_TABLE:
        sev_ap_jump_table(exit);
        break;
    case EXIT_FEATURES:
        exit->out2 = features(exit->sev);
        break;
    case EXIT_TERMINATE:
        sev_terminate(exit, exit->info1 & 0xf, exit->info1 >> 4 & 0xff);
    case EXIT_UNSUPPORTED:
        error_report("the guest cannot handle exit 0x%" PRIx64, exit->info1);
        sev_terminate(exit, TERM_SET_GENERAL, TERM_REASON_GENERAL);
    default:
        if (sev_exit_instruction(exit)) {
            break;
        }
        if (exit->sev->level == SEV_SNP) {
            snp_exit(exit);
        } else {
            sev_malformed(exit, GHCB_INVALID_EVENT);
        }
    }
}

static void page_protocol(SevExit *exit)
{
    bool snp = exit->sev->level == SEV_SNP;

    exit->gpa = exit->vcpu->ghcb & TARGET_PAGE_MASK;
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
