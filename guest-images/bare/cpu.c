// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that execute one instruction: hypercalls, CPUID, MSRs, port I/O.

#include "bare.h"

#define DR7_NONE 0x400

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

// Answers the exception's vector, and DR6 of the #DB that came with it.
void do_watch_frame(const uint64_t *arg)
{
    struct fault fault = {0};
    uint64_t values[3];

    (void)arg;
    values[0] = (uint64_t)probe_watched(&values[2], &fault);
    __asm__ volatile("mov %0, %%dr7" : : "r"((uint64_t)DR7_NONE));
    values[1] = take_debug_status();
    answer_ok(3, values);
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

#define HOLD_PATIENCE (1 << 27)     // reads of a port

// Keeps @value in registers until a byte arrives, for a host that looks for it there.  It says so
// when they hold it: the host may look at once.
void do_hold(const uint64_t *arg)
{
    uint64_t value = arg[0];

    answer_raw("holding");
    __asm__ volatile(
        "mov %0, %%r12\n\t"
        "mov %0, %%r13\n\t"
        "mov %1, %%edx\n"
        "1:\tin %%dx, %%al\n\t"
        "test %2, %%al\n\t"
        "jz 1b\n\t"
        "mov %3, %%edx\n\t"
        "mov $'\\n', %%al\n\t"
        "out %%al, %%dx\n\t"
        "mov %1, %%edx\n\t"
        "mov %4, %%ecx\n"
        "2:\tin %%dx, %%al\n\t"
        "test $1, %%al\n\t"
        "loopz 2b\n\t"
        "mov %%r12, %0"
        : "+r"(value)
        : "i"(AGENT + UART_LSR), "i"(LSR_SENDER_EMPTY), "i"(AGENT + UART_DATA), "i"(HOLD_PATIENCE)
        : "rax", "rcx", "rdx", "r12", "r13", "cc");
    answer_value(value);
}
