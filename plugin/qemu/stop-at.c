/*
 * Stopping the VM at a moment that somebody has asked for.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A record is written in the middle of an instruction. The VM stops behind it,
 * with all that it has changed.
 */

#include "qemu/osdep.h"
#include "chardev/char.h"
#include "exec/gdbstub.h"
#include "hw/core/cpu.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/lock.h"
#include "hw/restricted-memory/qemu/refuse.h"
#include "hw/restricted-memory/qemu/stop-at.h"
#include "hw/restricted-memory/qemu/stop.h"

/* Written with the VM stopped, but for what is atomic. */
static struct {
    bool armed;                 /* atomic: event or record are to be looked at */
    bool met;                   /* atomic: the record is there */
    bool has_event, has_gpa;
    RestrictedMemoryEvent event;
    uint64_t page;              /* number of the guest page, with has_gpa */
    uint64_t record;            /* 0: none */
    uint64_t pc;
    bool has_pc;
} at;

static bool is_event(const RmemRecord *rec)
{
    switch (at.event) {
    case RESTRICTED_MEMORY_EVENT_ACCEPT:
        return rec->kind == RMEM_K_ACCEPT;
    case RESTRICTED_MEMORY_EVENT_CONVERT:
        return rec->kind == RMEM_K_CONVERT;
    case RESTRICTED_MEMORY_EVENT_FAULT:
        return rec->kind == RMEM_K_GUEST_FAULT
               || rec->kind == RMEM_K_HOST_FAULT;
    default:
        g_assert_not_reached();
    }
}

static bool has_page(const RmemRecord *rec)
{
    uint64_t first = rec->gpa >> RMEM_PAGE_BITS;

    return !at.has_gpa || (at.page >= first && at.page - first < rec->pages);
}

static bool is_asked_for(const RestrictedMemory *rm, const RmemRecord *rec)
{
    uint64_t number = qatomic_read(&rm->core.shared->head);

    return (at.record && number >= at.record)
           || (at.has_event && is_event(rec) && has_page(rec));
}

void restricted_stop_at_record(RestrictedMemory *rm, const RmemRecord *rec)
{
    RestrictedPlace place = { current_cpu, rec->pc };

    if (likely(!qatomic_read(&at.armed)) || !is_asked_for(rm, rec)) {
        return;
    }
    qatomic_set(&at.armed, false);
    qatomic_set(&at.met, true);
    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_ASKED, place,
                            "record %" PRIu64 " is there",
                            qatomic_read(&rm->core.shared->head));
    restricted_stop_vm();
}

static void forget_breakpoints(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (at.has_pc) {
            cpu_breakpoint_remove(cpu, at.pc, BP_GDB);
        }
    }
    at.has_pc = false;
}

/* A breakpoint that is hit needs QEMU's debugger stub, if nobody uses it as well. */
static bool set_breakpoints(uint64_t pc, Error **errp)
{
    CPUState *cpu;

    if (!qemu_chr_find("gdb") && !gdbserver_start("null", errp)) {
        return false;
    }
    CPU_FOREACH(cpu) {
        cpu_breakpoint_insert(cpu, pc, BP_GDB, NULL);
    }
    at.pc = pc;
    at.has_pc = true;
    return true;
}

void restricted_stop_at_stopped(RestrictedMemory *rm, RunState state)
{
    CPUState *cpu;

    if (qatomic_xchg(&at.met, false)) {
        forget_breakpoints();
    }
    if (state != RUN_STATE_DEBUG || !at.has_pc) {
        return;
    }
    CPU_FOREACH(cpu) {
        if (rm->arch->pc(cpu) == at.pc) {
            RestrictedPlace place = { cpu, at.pc };

            forget_breakpoints();
            qatomic_set(&at.armed, false);
            restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_ASKED, place,
                                    "vCPU %d is at 0x%" PRIx64,
                                    cpu->cpu_index, at.pc);
            return;
        }
    }
}

void qmp_restricted_memory_stop_at(const char *id, bool has_event,
                                   RestrictedMemoryEvent event, bool has_gpa,
                                   uint64_t gpa, bool has_record,
                                   uint64_t record, bool has_pc, uint64_t pc,
                                   Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);

    if (!rm) {
        return;
    }
    if (has_pc && restricted_state_is_hidden(rm)) {
        restricted_refuse(rm, RESTRICTED_CPU_STATE, NULL, errp);
        return;
    }
    if (has_gpa && !has_event) {
        error_setg(errp, "gpa says of which event, and there is none");
        return;
    }
    if (has_record && !record) {
        error_setg(errp, "records are numbered from 1");
        return;
    }
    if (runstate_is_running()) {
        error_setg(errp, "the VM runs: stop it first, so that the moment does "
                   "not pass meanwhile");
        return;
    }
    qatomic_set(&at.armed, false);
    forget_breakpoints();
    at.has_event = has_event;
    at.event = event;
    at.has_gpa = has_gpa;
    at.page = gpa >> RMEM_PAGE_BITS;
    at.record = has_record ? record : 0;
    if (has_pc && !set_breakpoints(pc, errp)) {
        return;
    }
    qatomic_set(&at.armed, has_event || has_record);
}
