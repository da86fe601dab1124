// SPDX-License-Identifier: GPL-2.0-or-later
// The second CPU. It is started by INIT-SIPI for each job and halts for good
// when the job is done, so it costs nothing in between.

#include "bare.h"

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_X2 (1u << 10)
#define MSR_X2APIC_ICR 0x830
#define XAPIC_GPA 0xfee00000ull
#define ICR_INIT 0x4500
#define ICR_STARTUP 0x4600
#define ICR_PENDING (1u << 12)
#define AP_APIC_ID 1ull         // QEMU numbers CPUs from 0 without gaps
#define SETTLE_TICKS (1ull << 25)       // some 10 ms, before SIPI
#define WAIT_CHANGE 0xffffffffull

extern const uint8_t ap_trampoline[], ap_trampoline_end[];

enum ap_state { AP_OFF, AP_RUNNING, AP_DONE };

static struct {
    volatile enum ap_state state;
    volatile bool stop;
    bool count;                 // the job: count in the page, or nothing
    uint64_t gpa;
    uint64_t steps, lost, faults;       // valid when done
} job;

// The page counts with us until its content is lost; that is counted too.
static void count_in_page(void)
{
    struct fault fault;
    uint64_t value = 0, expected = 0, steps = 0, lost = 0, faults = 0;
    uint64_t end = ticks() + LOOP_PATIENCE;

    faults += probe_write64(job.gpa, 0, &fault) != 0;
    while (!job.stop && ticks() < end) {
        if (probe_read64(job.gpa, &value, &fault)) {
            faults++;
            continue;
        }
        lost += value != expected;
        if (probe_write64(job.gpa, value + 1, &fault)) {
            faults++;
            continue;
        }
        expected = value + 1;
        steps++;
    }
    job.steps = steps;
    job.lost = lost;
    job.faults = faults;
}

_Noreturn void ap_main(void)
{
    traps_init_ap();
    job.state = AP_RUNNING;
    if (job.count) {
        count_in_page();
    }
    job.state = AP_DONE;
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

static void send_ipi(uint32_t command)
{
    volatile uint32_t *icr = (volatile uint32_t *)(XAPIC_GPA + 0x300);
    uint64_t end = ticks() + PATIENCE;

    if (read_msr(MSR_APIC_BASE) & APIC_BASE_X2) {
        write_msr(MSR_X2APIC_ICR, AP_APIC_ID << 32 | command);
        return;
    }
    icr[4] = AP_APIC_ID << 24;
    icr[0] = command;
    while ((icr[0] & ICR_PENDING) && ticks() < end) {
        relax();
    }
}

static bool wait_past(enum ap_state state, uint64_t patience)
{
    uint64_t end = ticks() + patience;

    while (job.state <= state && ticks() < end) {
        relax();
    }
    return job.state > state;
}

static bool start_ap(void)
{
    volatile uint8_t *to = (volatile uint8_t *)(uint64_t)TRAMPOLINE_GPA;
    uint64_t end;

    for (long i = 0; i < ap_trampoline_end - ap_trampoline; i++) {
        to[i] = ap_trampoline[i];
    }
    job.state = AP_OFF;
    job.stop = false;
    send_ipi(ICR_INIT);
    end = ticks() + SETTLE_TICKS;
    while (ticks() < end) {
        relax();
    }
    send_ipi(ICR_STARTUP | TRAMPOLINE_GPA / PAGE_BYTES);
    return wait_past(AP_OFF, PATIENCE / 4);
}

static bool busy(void)
{
    if (job.state == AP_RUNNING) {
        answer_error("the second CPU is busy");
        return true;
    }
    return false;
}

void do_smp(const uint64_t *arg)
{
    (void)arg;
    if (!busy()) {
        job.count = false;
        answer_value(start_ap() && wait_past(AP_RUNNING, PATIENCE / 4) ? 2 : 1);
    }
}

void do_ap_loop(const uint64_t *arg)
{
    if (!mapped(arg[0], 8) || busy()) {
        return;
    }
    job.count = true;
    job.gpa = arg[0];
    if (start_ap()) {
        answer_done();
    } else {
        answer_error("there is no second CPU");
    }
}

void do_ap_stop(const uint64_t *arg)
{
    (void)arg;
    if (!job.count || job.state == AP_OFF) {
        answer_error("the second CPU has no job");
        return;
    }
    job.stop = true;
    if (!wait_past(AP_RUNNING, PATIENCE)) {
        answer_error("the second CPU does not stop");
        return;
    }
    answer_ok(3, (const uint64_t[]) { job.steps, job.lost, job.faults });
    job.count = false;
}
