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
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/tlb.h"

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

static void nothing(CPUState *cpu, run_on_cpu_data data)
{
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
