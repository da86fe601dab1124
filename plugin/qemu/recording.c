/*
 * Recorded execution: what has to be the same when it is replayed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/tlb.h"

#define TICK_MS 2               /* of the guest's time */

/* Of accel/tcg, which declares it for its own files only. */
G_NORETURN void cpu_io_recompile(CPUState *cpu, uintptr_t retaddr);

bool restricted_is_recorded(void)
{
    return replay_mode != REPLAY_MODE_NONE;
}

bool restricted_is_replayed(void)
{
    return replay_mode == REPLAY_MODE_PLAY;
}

static void nothing(CPUState *cpu, run_on_cpu_data data)
{
}

static QEMUTimer tick;

/*
 * The thread of the CPUs gives a recorded guest what came from outside, between two
 * turns. A turn lasts until the next timer, and there is none while the CPU is
 * halted: a guest without timers would wait for seconds, or for ever. Ticks are part
 * of what is recorded, so a replay has them too: at multiples of the interval, also
 * after it went back.
 */
void restricted_recording_tick(void)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL);

    if (restricted_is_recorded()) {
        timer_mod(&tick, QEMU_ALIGN_DOWN(now, TICK_MS) + TICK_MS);
    }
}

static void tick_again(void *opaque)
{
    restricted_recording_tick();
    async_run_on_cpu(first_cpu, nothing, RUN_ON_CPU_NULL);
}

/*
 * QEMU writes how far the guest has come when something happens to it. If it stops
 * for good, nothing will: the instructions before, such as a fault, would be lost.
 */
static void state_changed(void *opaque, bool running, RunState state)
{
    if (!running && replay_mode == REPLAY_MODE_RECORD) {
        replay_async_events();
    }
}

void restricted_recording_init(void)
{
    qemu_add_vm_change_state_handler(state_changed, NULL);
    timer_init_ms(&tick, QEMU_CLOCK_VIRTUAL, tick_again, NULL);
    restricted_recording_tick();
}

bool restricted_recording_check(Error **errp)
{
    if (icount_enabled() && current_machine->smp.max_cpus > 1) {
        error_setg(errp, "%s: instructions are counted for one CPU; say "
                   "-smp 1, or drop -icount", TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    return true;
}

bool restricted_may_intervene(Error **errp)
{
    if (restricted_is_recorded()) {
        error_setg(errp, "the VM is being %s: its guest may not be changed "
                   "from outside", restricted_is_replayed() ? "replayed" : "recorded");
        return false;
    }
    return true;
}

bool restricted_may_go_back(Error **errp)
{
    if (replay_mode == REPLAY_MODE_RECORD) {
        error_setg(errp, "the VM is being recorded, and time goes on in a log: "
                   "replay it to go back");
        return false;
    }
    if (!replay_can_snapshot()) {
        error_setg(errp, "the guest waits for something that is in the log: "
                   "try again when it is there");
        return false;
    }
    return true;
}

void restricted_count_exactly(CPUState *cpu, uintptr_t ra)
{
    if (icount_enabled() && ra && cpu->running && !cpu->neg.can_do_io) {
        cpu_io_recompile(cpu, ra);
    }
}

void restricted_execute_again(CPUState *cpu, uintptr_t ra)
{
    bool counted = icount_enabled() && ra && restricted_is_counted(ra);

    if (ra) {
        cpu_restore_state(cpu, ra);
    }
    if (counted) {
        cpu->neg.icount_decr.u16.low--;
    }
    cpu_loop_exit(cpu);
}

static uintptr_t within;                /* with -icount there is one vCPU thread */

void restricted_records_within(uintptr_t ra)
{
    if (icount_enabled()) {
        within = ra;
    }
}

/* True: the count is not known here. QEMU would end with "Bad icount read". */
static bool is_within_a_block(void)
{
    return icount_enabled() && current_cpu && current_cpu->running
           && !current_cpu->neg.can_do_io;
}

void restricted_record_times(RmemRecord *rec)
{
    if (is_within_a_block()) {
        warn_report_once("a record of kind %u has no exact time", rec->kind);
        return;
    }
    rec->vtime_ns = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    if (within && current_cpu && current_cpu->running
        && restricted_is_counted(within)) {
        rec->vtime_ns -= icount_to_ns(1);
    }
    rec->htime_ns = restricted_is_recorded() ? rec->vtime_ns : get_clock();
}

void restricted_finish_cpu_work(void)
{
    CPUState *cpu;

    if (restricted_is_recorded()) {
        /* CPUs that were stopped have done it, and others need the log. */
        return;
    }
    CPU_FOREACH(cpu) {
        run_on_cpu(cpu, nothing, RUN_ON_CPU_NULL);
    }
}

/* The log has a kind of event for bytes of a fixed number: random ones. */
static void number_input(uint32_t *value)
{
    if (replay_mode == REPLAY_MODE_RECORD) {
        replay_save_random(0, value, sizeof(*value));
    } else {
        replay_read_random(value, sizeof(*value));
    }
}

void restricted_input(GByteArray **bytes)
{
    uint32_t size = *bytes ? (*bytes)->len + 1 : 0;     /* 0: there are none */

    number_input(&size);
    if (restricted_is_replayed()) {
        g_clear_pointer(bytes, g_byte_array_unref);
        if (size) {
            *bytes = g_byte_array_set_size(g_byte_array_new(), size - 1);
        }
    }
    if (size <= 1) {
        return;
    }
    if (replay_mode == REPLAY_MODE_RECORD) {
        replay_save_random(0, (*bytes)->data, size - 1);
    } else {
        replay_read_random((*bytes)->data, size - 1);
    }
}
