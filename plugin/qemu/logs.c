/*
 * Logs and traces that show what the host may not see.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Some items of -d and `log` show the guest's instructions, which are the
 * content of its memory, others the state of its CPUs. So do trace events of
 * the translator.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/log.h"
#include "monitor/hmp.h"
#include "tcg/perf.h"
#include "trace/control.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/logs.h"
#include "hw/restricted-memory/qemu/refuse.h"

/* What there was before. */
static struct {
    QmpCommandFunc *trace;
    RestrictedHmp *hmp_trace, *log;
} stock;

#define LOG_OF_STATE (CPU_LOG_INT | CPU_LOG_EXEC | CPU_LOG_PCALL              \
                      | CPU_LOG_TB_CPU | CPU_LOG_RESET | CPU_LOG_MMU          \
                      | CPU_LOG_TB_FPU | CPU_LOG_TB_VPU)
#define LOG_HARMLESS (LOG_UNIMP | LOG_GUEST_ERROR | CPU_LOG_TB_NOCHAIN        \
                      | CPU_LOG_PAGE | LOG_TRACE | LOG_STRACE                 \
                      | LOG_PER_THREAD | LOG_INVALID_MEM)

/*
 * Log items that the host may not see. The rest of them shows the guest's
 * instructions, which are the content of its private memory.
 */
static int log_hidden(const RestrictedMemory *rm)
{
    return rm->debuggable ? 0
           : ~(LOG_HARMLESS | (rm->profile->hides_state ? 0 : LOG_OF_STATE));
}

static RestrictedWhole log_shows(int mask)
{
    return mask & ~(LOG_HARMLESS | LOG_OF_STATE) ? RESTRICTED_ALL_MEMORY
                                                 : RESTRICTED_CPU_STATE;
}

/* Trace events with the program counter of each block of code. */
static const char *const state_events[] = {
    "exec_tb", "exec_tb_nocache", "exec_tb_exit", "translate_block",
    "memory_notdirty_write_access", "memory_notdirty_set_dirty",
};

/* They are switched here, and not where the CPUs look. */
static uint16_t state_events_wanted;

static bool refuse_traces(Error **errp)
{
    if (!state_events_wanted) {
        return false;
    }
    state_events_wanted = 0;
    restricted_refuse(restricted_memory(), RESTRICTED_CPU_STATE, "trace event",
                      errp);
    return true;
}

static void hmp_log_checked(Monitor *mon, const QDict *args)
{
    const char *items = qdict_get_str(args, "items");
    RestrictedMemory *rm = restricted_memory();
    int mask = strcmp(items, "none") ? qemu_str_to_log_mask(items) : 0;
    Error *err = NULL;

    if (mask & log_hidden(rm)) {
        restricted_refuse(rm, log_shows(mask & log_hidden(rm)), "log", &err);
    } else if (!refuse_traces(&err)) {
        stock.log(mon, args);
    }
    hmp_handle_error(mon, err);
}

static void qmp_trace_checked(QDict *args, QObject **ret, Error **errp)
{
    Error *err = NULL;

    stock.trace(args, ret, &err);
    if (!err) {
        refuse_traces(&err);
    }
    error_propagate(errp, err);
}

static void hmp_trace_checked(Monitor *mon, const QDict *args)
{
    Error *err = NULL;

    stock.hmp_trace(mon, args);
    refuse_traces(&err);
    hmp_handle_error(mon, err);
}

static TraceEvent *state_event(size_t i)
{
    TraceEvent *event = trace_event_name(state_events[i]);

    return event && trace_event_get_state_static(event) ? event : NULL;
}

bool restricted_logs_check(RestrictedMemory *rm, Error **errp)
{
    const char *of = log_shows(qemu_loglevel & log_hidden(rm))
                     == RESTRICTED_CPU_STATE ? "CPU state"
                                             : "private memory";

    if (qemu_loglevel & log_hidden(rm)) {
        error_setg(errp, "%s: -d 0x%x would log %s; say debuggable=on",
                   TYPE_MEMORY_BACKEND_RESTRICTED,
                   qemu_loglevel & log_hidden(rm), of);
        return false;
    }
    for (size_t i = 0; restricted_state_is_hidden(rm)
                       && i < ARRAY_SIZE(state_events); i++) {
        TraceEvent *event = state_event(i);

        if (event && *event->dstate) {
            error_setg(errp, "%s: trace event %s would show CPU state; say "
                       "debuggable=on", TYPE_MEMORY_BACKEND_RESTRICTED,
                       state_events[i]);
            return false;
        }
    }
    if (!rm->debuggable) {
        perf_exit();    /* -perfmap and -jitdump write the guest's code */
    }
    return true;
}

static void hide_traces(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(state_events); i++) {
        TraceEvent *event = state_event(i);

        if (event) {
            event->dstate = &state_events_wanted;
        }
    }
    stock.trace = restricted_commands_qmp("trace-event-set-state",
                                          qmp_trace_checked);
    stock.hmp_trace = restricted_commands_hmp("trace-event", false,
                                              hmp_trace_checked);
}

void restricted_logs_machine_done(RestrictedMemory *rm)
{
    stock.log = restricted_commands_hmp("log", false, hmp_log_checked);
    if (restricted_state_is_hidden(rm)) {
        hide_traces();
    }
}
