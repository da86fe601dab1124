// SPDX-License-Identifier: GPL-2.0-or-later
// The second CPU. INIT-SIPI starts it for each job, and it halts when the job is
// done, so it uses no CPU time between jobs.

#include "attack.h"

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_X2 (1u << 10)
#define MSR_X2APIC_ICR 0x830
#define XAPIC_GPA 0xfee00000ull
#define ICR_INIT 0x4500
#define ICR_STARTUP 0x4600
#define ICR_PENDING (1u << 12)
#define AP_APIC_ID 1ull         // QEMU numbers APIC IDs from 0 without gaps
#define LOST_PATIENCE (PATIENCE / 4)    // longer than one call, also one that asks a service
#define SETTLE_TICKS (1ull << 25)       // about 10 ms between INIT and SIPI
#define WAIT_CHANGE 0xffffffffull

extern const uint8_t ap_trampoline[], ap_trampoline_end[];

enum ap_state { AP_OFF, AP_RUNNING, AP_DONE };

static struct {
    volatile enum ap_state state;
    volatile bool stop;
    bool count;                 // count in the page at @gpa; false: only start and halt
    struct attack *attack;      // or attack, @attacks times
    uint64_t attacks;
    uint64_t gpa;
    uint64_t steps, lost, faults;       // valid in state AP_DONE
} job;

// Increments the word in the page, and counts how often its content was lost.
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
    if (job.attack) {
        attack_begin(job.attack);
    }
    while (job.attack && job.attack->calls < job.attacks) {
        attack_once(job.attack);
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
        job.attack = NULL;
        answer_value(start_ap() && wait_past(AP_RUNNING, PATIENCE / 4) ? 2 : 1);
    }
}

void do_ap_loop(const uint64_t *arg)
{
    if (!mapped(arg[0], 8) || busy()) {
        return;
    }
    job.count = true;
    job.attack = NULL;
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

// Also starts a CPU that an attack has destroyed in the middle of a job.
bool ap_attack(struct attack *attack, uint64_t count)
{
    job.count = false;
    job.attack = attack;
    job.attacks = count;
    return start_ap();
}

bool ap_attack_ended(const struct attack *attack)
{
    const volatile uint64_t *calls = &attack->calls;
    uint64_t before;

    do {
        before = *calls;
        if (wait_past(AP_RUNNING, LOST_PATIENCE)) {
            return true;
        }
    } while (*calls != before);
    return false;
}
