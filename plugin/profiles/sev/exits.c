/*
 * SEV-ES, SEV-SNP: exits by which the host executes an instruction.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, "List of Supported Non-Automatic Events": the registers of each
 * exit. A guest needs these exits only where #VC is raised (vc=strict), or if
 * it makes them without a #VC.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "svm.h"
#include "hw/restricted-memory/profiles/sev/exits.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "hw/restricted-memory/trace.h"

#define MMIO_MAX 8

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

/* GHCB, SW_EXITINFO1: the host asks for an exception, coded as for event injection. */
static bool issue_gp(SevExit *exit)
{
    exit->out1 = GHCB_ISSUE_EXCEPTION;
    exit->out2 = (uint32_t)SVM_EVTINJ_VALID | SVM_EVTINJ_VALID_ERR
                 | SVM_EVTINJ_TYPE_EXEPT | EXCP0D_GPF;
    return false;
}

static bool run_msr(SevExit *exit)
{
    uint64_t *regs = exit->env->regs;
    uint64_t value = deposit64(regs[R_EAX], 32, 32, regs[R_EDX]);

    if (!sev_host_msr(exit->cpu, regs[R_ECX], exit->info1, &value)) {
        return issue_gp(exit);
    }
    regs[R_EAX] = (uint32_t)value;
    regs[R_EDX] = value >> 32;
    return true;
}

static bool run_rdtsc(SevExit *exit)
{
    uint64_t tsc = cpu_get_tsc(exit->env) + exit->env->tsc_offset;

    exit->env->regs[R_EAX] = (uint32_t)tsc;
    exit->env->regs[R_EDX] = tsc >> 32;
    if (exit->code == SVM_EXIT_RDTSCP) {
        exit->env->regs[R_ECX] = exit->env->tsc_aux;
    }
    return true;
}

static bool run_rdpmc(SevExit *exit)
{
    return issue_gp(exit);          /* there are no counters */
}

static bool run_vmmcall(SevExit *exit)
{
    exit->env->regs[R_EAX] = -1000; /* -KVM_ENOSYS: there is no hypercall */
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

    if (!size) {
        return false;               /* KVM ignores it */
    }
    if (size & (size - 1)) {
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

/* Registers in the page: string I/O does not use RAX. */
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
    { SVM_EXIT_READ_DR0 + 7, 0, 0, run_nothing },
    /* KVM: DR7 is in the VMSA. */
    { SVM_EXIT_WRITE_DR0 + 7, IN_OUT_RAX, 0, run_nothing },
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

typedef struct Execution {
    SevExit *exit;
    bool (*run)(SevExit *exit);
    unsigned in, out;
} Execution;

/* Take registers from the page, and put results back for the guest to read. */
static void execute(const Execution *execution)
{
    SevExit *exit = execution->exit;

    if (!take_inputs(exit, execution->in)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
    } else if (execution->run(exit)) {
        for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
            if (execution->out >> i & 1) {
                sev_ghcb_put(exit, registers[i].offset,
                             exit->env->regs[registers[i].reg]);
            }
        }
    }
}

bool sev_exit_instruction(SevExit *exit)
{
    target_ulong saved[CPU_NB_REGS];

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
        memcpy(saved, exit->env->regs, sizeof(saved));
        execute(&(Execution) {
            .exit = exit, .run = exits[i].run, .in = in, .out = out,
        });
        memcpy(exit->env->regs, saved, sizeof(saved));
        return true;
    }
    return false;
}

/* INFO1: address; INFO2: length. KVM ignores a length of 0. */
void sev_exit_mmio(SevExit *exit, bool write)
{
    uint8_t data[MMIO_MAX];         /* the target may overlap the buffer */
    uint8_t *buffer;

    if (!sev_ghcb_has(exit, GHCB_SCRATCH)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return;
    }
    if (exit->info2 > MMIO_MAX) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return;
    }
    buffer = exit->info2 ? sev_ghcb_scratch(exit, exit->info2) : NULL;
    if (buffer) {
        memcpy(data, buffer, exit->info2);
        exit->cpu->mem_io_pc = exit->ra;
        address_space_rw(&address_space_memory, exit->info1 & ~SEV_C_MASK,
                         MEMTXATTRS_UNSPECIFIED, data, exit->info2, write);
        if (!write) {
            memcpy(buffer, data, exit->info2);
        }
    }
}
