/*
 * SEV-ES, SEV-SNP: exits for an instruction that the host executes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, table 6 "List of Supported Non-Automatic Events": which registers
 * come and go. A guest needs them only where #VC is raised (vc=strict), or
 * where it asks by itself.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "exec/address-spaces.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "sev.h"
#include "svm.h"
#include "trace.h"

enum { IN_OUT_RAX = 1, IN_OUT_RBX = 2, IN_OUT_RCX = 4, IN_OUT_RDX = 8 };

static const struct {
    unsigned offset;
    int reg;
} registers[] = {
    { GHCB_RAX, R_EAX }, { GHCB_RBX, R_EBX }, { GHCB_RCX, R_ECX },
    { GHCB_RDX, R_EDX },
};

static bool run_nothing(SevExit *exit)
{
    return true;
}

static bool run_cpuid(SevExit *exit)
{
    CPUX86State *env = exit->env;
    uint32_t regs[4];
    uint64_t xcr0 = env->xcr0;

    if (env->regs[R_EAX] == 0xd && !sev_ghcb_has(exit, GHCB_XCR0)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return false;
    }
    env->xcr0 = env->regs[R_EAX] == 0xd ? sev_ghcb_get(exit, GHCB_XCR0)
                                        : xcr0;
    cpu_x86_cpuid(env, env->regs[R_EAX], env->regs[R_ECX], &regs[R_EAX],
                  &regs[R_EBX], &regs[R_ECX], &regs[R_EDX]);
    env->xcr0 = xcr0;
    for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
        env->regs[i] = regs[i];
    }
    return true;
}

/* Without an x2APIC its MSRs end in #GP, which QEMU has no way to ask about. */
static bool msr_is_there(SevExit *exit)
{
    uint32_t index = exit->env->regs[R_ECX];
    uint64_t base = cpu_get_apic_base(env_archcpu(exit->env)->apic_state);

    return index < 0x800 || index > 0x8ff || base & MSR_IA32_APICBASE_EXTD;
}

/* GHCB, 4.1.1: an exception that the host asks for, as in event injection */
static void issue_gp(SevExit *exit)
{
    exit->out1 = GHCB_ISSUE_EXCEPTION;
    exit->out2 = (uint32_t)SVM_EVTINJ_VALID | SVM_EVTINJ_VALID_ERR
                 | SVM_EVTINJ_TYPE_EXEPT | EXCP0D_GPF;
}

static bool run_msr(SevExit *exit)
{
    if (!msr_is_there(exit)) {
        issue_gp(exit);
        return false;
    }
    if (exit->info1) {
        helper_wrmsr(exit->env);
    } else {
        helper_rdmsr(exit->env);
    }
    return true;
}

static bool run_rdtsc(SevExit *exit)
{
    helper_rdtsc(exit->env);
    if (exit->code == SVM_EXIT_RDTSCP) {
        exit->env->regs[R_ECX] = exit->env->tsc_aux;
    }
    return true;
}

static bool run_rdpmc(SevExit *exit)
{
    exit->env->regs[R_EAX] = 0;     /* there are no counters */
    exit->env->regs[R_EDX] = 0;
    return true;
}

static bool run_vmmcall(SevExit *exit)
{
    exit->env->regs[R_EAX] = -1000; /* -KVM_ENOSYS: no hypercall is for it */
    return true;
}

static bool run_dr7(SevExit *exit)
{
    helper_set_dr(exit->env, 7, exit->env->regs[R_EAX]);
    return true;
}

static void io_once(SevExit *exit, uint8_t *data, unsigned size)
{
    exit->cpu->mem_io_pc = exit->ra;
    address_space_rw(&address_space_io, extract64(exit->info1, 16, 16),
                     MEMTXATTRS_UNSPECIFIED, data, size,
                     !(exit->info1 & SVM_IOIO_TYPE_MASK));
}

static bool run_io(SevExit *exit)
{
    unsigned size = extract64(exit->info1, SVM_IOIO_SIZE_SHIFT, 3);
    uint64_t rax = exit->env->regs[R_EAX];
    uint64_t count = exit->info2;
    uint8_t *buffer, data[8];

    if (!size || size & (size - 1)) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return false;
    }
    if (!(exit->info1 & SVM_IOIO_STR_MASK)) {
        stq_le_p(data, rax);
        io_once(exit, data, size);
        exit->env->regs[R_EAX] = ldq_le_p(data);
        return true;
    }
    if (count > GHCB_SHARED_SIZE / size) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return false;
    }
    buffer = sev_ghcb_scratch(exit, count * size);
    for (uint64_t i = 0; buffer && i < count; i++) {
        io_once(exit, buffer + i * size, size);
    }
    return buffer != NULL;
}

/* GHCB takes what it needs from the page; a string has no RAX. */
static unsigned io_inputs(const SevExit *exit)
{
    return exit->info1 & (SVM_IOIO_STR_MASK | SVM_IOIO_TYPE_MASK) ? 0
                                                                  : IN_OUT_RAX;
}

static unsigned io_outputs(const SevExit *exit)
{
    return !(exit->info1 & SVM_IOIO_STR_MASK)
           && exit->info1 & SVM_IOIO_TYPE_MASK ? IN_OUT_RAX : 0;
}

static const struct {
    uint32_t code;
    unsigned in, out;
    bool (*run)(SevExit *exit);
} exits[] = {
    { SVM_EXIT_READ_DR0 + 7, 0, IN_OUT_RAX, run_nothing },
    { SVM_EXIT_WRITE_DR0 + 7, IN_OUT_RAX, 0, run_dr7 },
    { SVM_EXIT_RDTSC, 0, IN_OUT_RAX | IN_OUT_RDX, run_rdtsc },
    { SVM_EXIT_RDPMC, IN_OUT_RCX, IN_OUT_RAX | IN_OUT_RDX, run_rdpmc },
    { SVM_EXIT_CPUID, IN_OUT_RAX | IN_OUT_RCX,
      IN_OUT_RAX | IN_OUT_RBX | IN_OUT_RCX | IN_OUT_RDX, run_cpuid },
    { SVM_EXIT_INVD, 0, 0, run_nothing },
    { SVM_EXIT_IOIO, 0, 0, run_io },
    { SVM_EXIT_MSR, IN_OUT_RCX, 0, run_msr },
    { SVM_EXIT_VMMCALL, IN_OUT_RAX, IN_OUT_RAX, run_vmmcall },
    { SVM_EXIT_RDTSCP, 0, IN_OUT_RAX | IN_OUT_RDX | IN_OUT_RCX, run_rdtsc },
    { SVM_EXIT_WBINVD, 0, 0, run_nothing },
    { SVM_EXIT_MONITOR, IN_OUT_RAX | IN_OUT_RCX | IN_OUT_RDX, 0, run_nothing },
    { SVM_EXIT_MWAIT, IN_OUT_RAX | IN_OUT_RCX, 0, run_nothing },
};

static bool take_inputs(SevExit *exit, unsigned in)
{
    for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
        if (in >> i & 1) {
            if (!sev_ghcb_has(exit, registers[i].offset)) {
                return false;
            }
            exit->env->regs[registers[i].reg]
                = sev_ghcb_get(exit, registers[i].offset);
        }
    }
    return true;
}

/* The guest's own registers are as they were: it reads the page. */
static void execute(SevExit *exit, size_t i, unsigned in, unsigned out)
{
    target_ulong saved[CPU_NB_REGS];

    memcpy(saved, exit->env->regs, sizeof(saved));
    if (!take_inputs(exit, in)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
    } else {
        exit->vcpu->by_host = true;
        if (exits[i].run(exit)) {
            for (size_t r = 0; r < ARRAY_SIZE(registers); r++) {
                if (out >> r & 1) {
                    sev_ghcb_put(exit, registers[r].offset,
                                 exit->env->regs[registers[r].reg]);
                }
            }
        }
        exit->vcpu->by_host = false;
    }
    memcpy(exit->env->regs, saved, sizeof(saved));
}

bool sev_exit_instruction(SevExit *exit)
{
    for (size_t i = 0; i < ARRAY_SIZE(exits); i++) {
        unsigned in = exits[i].in, out = exits[i].out;

        if (exits[i].code != exit->code) {
            continue;
        }
        if (exit->code == SVM_EXIT_IOIO) {
            in = io_inputs(exit);
            out = io_outputs(exit);
        } else if (exit->code == SVM_EXIT_MSR) {
            in |= exit->info1 ? IN_OUT_RAX | IN_OUT_RDX : 0;
            out = exit->info1 ? 0 : IN_OUT_RAX | IN_OUT_RDX;
        }
        execute(exit, i, in, out);
        return true;
    }
    return false;
}
