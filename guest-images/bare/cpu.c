// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that are one instruction: hypercalls, CPUID, MSRs, ports.

#include "bare.h"

typedef int hypercall_fn(const uint64_t args[5], uint64_t *value, struct fault *fault);

static void hypercall(hypercall_fn *call, const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value = 0;

    if (call(arg, &value, &fault)) {
        answer_fault(&fault);
    } else {
        answer_value(value);
    }
}

void do_tdcall(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t regs[11];

    for (unsigned i = 0; i < 11; i++) {
        regs[i] = arg[i];
    }
    if (probe_tdcall(regs, &fault)) {
        answer_fault(&fault);
    } else {
        answer_ok(11, regs);
    }
}

void do_vmcall(const uint64_t *arg)
{
    hypercall(probe_vmcall, arg);
}

void do_vmmcall(const uint64_t *arg)
{
    hypercall(probe_vmmcall, arg);
}

void do_cpuid(const uint64_t *arg)
{
    uint64_t regs[4] = { (uint32_t)arg[0], 0, (uint32_t)arg[1], 0 };
    struct fault fault = {0};

    if (probe_cpuid(regs, &fault)) {
        answer_fault(&fault);
    } else {
        answer_ok(4, regs);
    }
}

void do_rdmsr(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t value = 0;

    if (probe_rdmsr((uint32_t)arg[0], &value, &fault)) {
        answer_fault(&fault);
    } else {
        answer_value(value);
    }
}

void do_wrmsr(const uint64_t *arg)
{
    struct fault fault = {0};

    if (probe_wrmsr((uint32_t)arg[0], arg[1], &fault)) {
        answer_fault(&fault);
    } else {
        answer_done();
    }
}

void do_outb(const uint64_t *arg)
{
    out8((uint16_t)arg[0], (uint8_t)arg[1]);
    answer_done();
}

void do_inb(const uint64_t *arg)
{
    answer_value(in8((uint16_t)arg[0]));
}

void do_outl(const uint64_t *arg)
{
    out32((uint16_t)arg[0], (uint32_t)arg[1]);
    answer_done();
}

void do_inl(const uint64_t *arg)
{
    answer_value(in32((uint16_t)arg[0]));
}
