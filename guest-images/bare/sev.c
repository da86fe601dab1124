// SPDX-License-Identifier: GPL-2.0-or-later
// Commands for AMD SEV: the SNP instructions, and VMGEXIT.

#include "bare.h"

#define MSR_GHCB 0xc0010130
#define REGISTER_GHCB 0x12
#define RFLAGS_CF 1u

typedef int rmp_fn(uint64_t regs[4], struct fault *fault);

// Answers RAX, RCX, RDX and the carry flag.
static void rmp(rmp_fn *probe, const uint64_t *arg)
{
    uint64_t regs[4] = { arg[0], arg[1], arg[2], 0 };
    struct fault fault = {0};

    if (probe(regs, &fault)) {
        fault.gpa = arg[0];
        answer_fault(&fault);
    } else {
        regs[3] &= RFLAGS_CF;
        answer_ok(4, regs);
    }
}

void do_pvalidate(const uint64_t *arg)
{
    rmp(probe_pvalidate, arg);
}

void do_rmpadjust(const uint64_t *arg)
{
    rmp(probe_rmpadjust, arg);
}

void do_rmpquery(const uint64_t *arg)
{
    rmp(probe_rmpquery, arg);
}

// Writes the GHCB MSR, executes VMGEXIT and reads the MSR back, so that one command is one exit.
void do_vmgexit(const uint64_t *arg)
{
    uint64_t regs[4] = {0}, value = 0;
    struct fault fault = {0};

    if (probe_wrmsr(MSR_GHCB, arg[0], &fault) || probe_vmgexit(regs, &fault)
        || probe_rdmsr(MSR_GHCB, &value, &fault)) {
        answer_fault(&fault);
        return;
    }
    if (value == arg[0] + 1 && (arg[0] & 0xfff) == REGISTER_GHCB) {
        keep_registered(arg[0] & ~0xfffull);
    }
    answer_value(value);
}
