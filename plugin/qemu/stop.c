/*
 * Stopping the VM because its guest cannot go on, and telling why.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A vCPU keeps its reason and asks for the stop. The main loop stops the VM and
 * sends the reason before QEMU's own STOP event, so a client that waits for a
 * stop knows by then whether it is an ending or somebody's pause.
 */

#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-events-restricted-memory.h"
#include "qapi/qapi-visit-restricted-memory.h"
#include "qemu/error-report.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/lock.h"
#include "hw/restricted-memory/qemu/stop-at.h"
#include "hw/restricted-memory/qemu/stop.h"

static struct {
    RestrictedLock lock;        /* a leaf; protects both */
    RestrictedMemoryStop *stop;
    bool told;
} why;

void restricted_stop_because(RestrictedMemoryStopReason reason,
                             RestrictedPlace at, const char *format, ...)
{
    RestrictedMemoryStop *stop = g_new0(RestrictedMemoryStop, 1);
    va_list arguments;

    va_start(arguments, format);
    stop->text = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    stop->reason = reason;
    stop->has_vcpu = at.cpu != NULL;
    stop->vcpu = at.cpu ? at.cpu->cpu_index : 0;
    stop->has_pc = at.pc != 0;
    stop->pc = at.pc;

    if (reason == RESTRICTED_MEMORY_STOP_REASON_MISUSE
        || reason == RESTRICTED_MEMORY_STOP_REASON_FATAL_ERROR) {
        error_report("%s, at 0x%" PRIx64, stop->text, at.pc);
    }
    RESTRICTED_LOCK_GUARD(&why.lock);
    if (why.stop) {
        qapi_free_RestrictedMemoryStop(stop);
        return;
    }
    why.stop = stop;
    why.told = false;
}

void restricted_stop_vm(void)
{
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(RUN_STATE_PAUSED);
    cpu_stop_current();
}

RestrictedMemoryStop *restricted_stop_reason(void)
{
    RESTRICTED_LOCK_GUARD(&why.lock);
    return why.stop ? QAPI_CLONE(RestrictedMemoryStop, why.stop) : NULL;
}

void restricted_stop_forget(void)
{
    RESTRICTED_LOCK_GUARD(&why.lock);
    qapi_free_RestrictedMemoryStop(why.stop);
    why.stop = NULL;
}

/* QEMU makes an ordinary reset of it, and says nothing. */
static void find_triple_fault(const RestrictedMemory *rm)
{
    CPUState *cpu;

    if (!rm->arch->has_crashed) {
        return;
    }
    CPU_FOREACH(cpu) {
        if (rm->arch->has_crashed(cpu)) {
            RestrictedPlace at = { cpu, rm->arch->pc(cpu) };

            restricted_stop_because(
                RESTRICTED_MEMORY_STOP_REASON_TRIPLE_FAULT, at,
                "a triple fault of vCPU %d at 0x%" PRIx64, cpu->cpu_index,
                at.pc);
            return;
        }
    }
}

static void tell(RestrictedMemory *rm)
{
    RestrictedMemoryStop *stop = NULL;

    WITH_RESTRICTED_LOCK(&why.lock) {
        if (why.stop && !why.told) {
            why.told = true;
            stop = QAPI_CLONE(RestrictedMemoryStop, why.stop);
        }
    }
    if (stop) {
        qapi_event_send_restricted_memory_stopped(
            object_get_canonical_path_component(OBJECT(rm)), stop);
        qapi_free_RestrictedMemoryStop(stop);
    }
}

/* The BQL is held, and no vCPU runs, or none runs yet. */
static void state_changed(void *opaque, bool running, RunState state)
{
    RestrictedMemory *rm = opaque;

    if (running) {
        restricted_stop_forget();
        return;
    }
    if (state == RUN_STATE_SHUTDOWN) {
        find_triple_fault(rm);
    }
    restricted_stop_at_stopped(rm, state);
    tell(rm);
}

void restricted_stop_init(RestrictedMemory *rm)
{
    restricted_lock_init(&why.lock, "the lock of the reason of a stop",
                         RESTRICTED_RANK_LEAF);
    qemu_add_vm_change_state_handler(state_changed, rm);
}

/*
 * A vCPU may have paused the VM while we waited for it. It must stay stopped
 * until the main loop handles that request and stops the others.
 */
void restricted_resume_vcpus(void)
{
    RunState state;

    if (qemu_vmstop_requested(&state)) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(state);
    } else {
        resume_all_vcpus();
    }
}
