/*
 * Events for the controller: all of them in the ring, a summary by QMP.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The ring has every event. QMP has at most one of a kind per interval, with
 * the number of events that it stands for. Events come from any thread, so a
 * bottom half sends the QMP events.
 */

#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "qapi/qapi-events-restricted-memory.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/stack.h"
#include "hw/restricted-memory/qemu/stop-at.h"
#include "hw/restricted-memory/trace.h"

#define QMP_INTERVAL_MS 100

/* Events that were not sent by QMP yet, by kind. */
typedef enum { SUMMARY_FAULT, SUMMARY_CONVERTED, SUMMARY_VIOLATION,
               SUMMARIES } SummaryKind;

typedef struct Summary {
    RmemRecord first;
    uint64_t count;
} Summary;

static struct {
    QemuSpin lock;              /* protects summaries and armed */
    Summary summaries[SUMMARIES];
    bool armed;                 /* the bottom half or the timer will run */
    QEMUBH *bh;
    QEMUTimer *timer;
} qmp_out;

static char *record_device(RestrictedMemory *rm, const RmemRecord *rec)
{
    return rec->device < rm->actors->len
           ? restricted_actor_name(g_ptr_array_index(rm->actors, rec->device))
           : NULL;
}

static RestrictedMemoryPolicy record_verdict(const RmemRecord *rec)
{
    return rec->verdict < RESTRICTED_MEMORY_POLICY__MAX
           ? rec->verdict : RESTRICTED_MEMORY_POLICY_DENY;
}

static void send_fault(RestrictedMemory *rm, const char *id, const Summary *s)
{
    const RmemRecord *rec = &s->first;
    g_autofree char *device = record_device(rm, rec);

    qapi_event_send_restricted_memory_fault(
        id, (RestrictedMemoryActor)rec->actor,
        rec->actor == RMEM_A_DEVICE ? device : NULL, rec->gpa,
        rec->flags & RMEM_F_WRITE,
        rec->kind == RMEM_K_HOST_FAULT && rec->flags & RMEM_F_STATE,
        (RestrictedMemoryState)rec->from,
        rec->vcpu != RMEM_NO_VCPU, rec->vcpu, rec->pc != 0, rec->pc,
        record_verdict(rec), s->count);
}

static void send_converted(const char *id, const Summary *s)
{
    const RmemRecord *rec = &s->first;

    qapi_event_send_restricted_memory_converted(
        id, rec->to == RMEM_SHARED ? RESTRICTED_MEMORY_TARGET_SHARED
                                   : RESTRICTED_MEMORY_TARGET_PRIVATE,
        rec->gpa, rec->pages, (RestrictedMemoryActor)rec->actor, s->count);
}

static void send_violation(const char *id, const Summary *s)
{
    const RmemRecord *rec = &s->first;

    qapi_event_send_restricted_memory_violation(
        id, rec->gpa, rmem_refusal_name((RmemRefusal)rec->refusal), rec->vcpu,
        rec->pc, s->count);
}

static void qmp_out_send(void *opaque)
{
    RestrictedMemory *rm = opaque;
    const char *id = object_get_canonical_path_component(OBJECT(rm));
    Summary todo[SUMMARIES];
    bool sent = false;

    qemu_spin_lock(&qmp_out.lock);
    memcpy(todo, qmp_out.summaries, sizeof(todo));
    memset(qmp_out.summaries, 0, sizeof(qmp_out.summaries));
    for (int i = 0; i < SUMMARIES; i++) {
        sent |= todo[i].count != 0;
    }
    qmp_out.armed = sent;
    qemu_spin_unlock(&qmp_out.lock);

    if (todo[SUMMARY_FAULT].count) {
        send_fault(rm, id, &todo[SUMMARY_FAULT]);
    }
    if (todo[SUMMARY_CONVERTED].count) {
        send_converted(id, &todo[SUMMARY_CONVERTED]);
    }
    if (todo[SUMMARY_VIOLATION].count) {
        send_violation(id, &todo[SUMMARY_VIOLATION]);
    }
    if (sent) {
        timer_mod(qmp_out.timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + QMP_INTERVAL_MS);
    }
}

static void qmp_out_add(SummaryKind kind, const RmemRecord *rec)
{
    bool schedule;

    qemu_spin_lock(&qmp_out.lock);
    if (!qmp_out.summaries[kind].count++) {
        qmp_out.summaries[kind].first = *rec;
    }
    schedule = !qmp_out.armed;
    qmp_out.armed = true;
    qemu_spin_unlock(&qmp_out.lock);
    if (schedule) {
        qemu_bh_schedule(qmp_out.bh);
    }
}

void restricted_record(RestrictedMemory *rm, RmemRecord *rec)
{
    rec->vcpu = current_cpu ? current_cpu->cpu_index : RMEM_NO_VCPU;
    restricted_record_times(rec);
    restricted_record_stack(rm, rec);
    rmem_ring_push(&rm->core, rec);
    restricted_stop_at_record(rm, rec);

    switch (rec->kind) {
    case RMEM_K_HOST_FAULT:
    case RMEM_K_GUEST_FAULT:
        qmp_out_add(SUMMARY_FAULT, rec);
        break;
    case RMEM_K_CONVERT:
        qmp_out_add(SUMMARY_CONVERTED, rec);
        break;
    case RMEM_K_VIOLATION:
        qmp_out_add(SUMMARY_VIOLATION, rec);
        break;
    default:
        break;
    }
}

void restricted_violation(RestrictedMemory *rm, hwaddr gpa, uint64_t pages,
                          RmemRefusal refusal, uint64_t pc)
{
    RmemRecord rec = {
        .kind = RMEM_K_VIOLATION, .actor = RMEM_A_VCPU,
        .device = RMEM_NO_DEVICE, .gpa = gpa, .pc = pc,
        .pages = MIN(pages, UINT32_MAX), .refusal = refusal,
    };

    rmem_count(&rm->core, RMEM_C_GUEST_VIOLATIONS, 1);
    restricted_record(rm, &rec);
}

uint64_t restricted_record_moment(RestrictedMemory *rm, RmemRecord *rec)
{
    rec->actor = RMEM_A_MONITOR;
    rec->device = RMEM_NO_DEVICE;
    restricted_record(rm, rec);
    return qatomic_read(&rm->core.shared->head);
}

/* Phases only go forward; a reset starts again. */
void restricted_phase(RestrictedMemory *rm, RmemPhase phase, uint64_t pc)
{
    RmemPhase old;
    RmemRecord rec = {
        .kind = RMEM_K_PHASE, .flags = phase, .actor = RMEM_A_VCPU,
        .device = RMEM_NO_DEVICE, .pc = pc,
    };

    do {
        old = rmem_phase(&rm->core);
        if (phase != RMEM_PH_LAUNCH && old >= phase) {
            return;
        }
    } while (!rmem_set_phase(&rm->core, old, phase));
    if (phase >= RMEM_PH_KERNEL) {
        restricted_seal(rm);
    }
    trace_rmem_phase(phase);
    restricted_record(rm, &rec);
}

void restricted_events_init(RestrictedMemory *rm)
{
    qemu_spin_init(&qmp_out.lock);
    qmp_out.bh = qemu_bh_new(qmp_out_send, rm);
    qmp_out.timer = timer_new_ms(QEMU_CLOCK_REALTIME, qmp_out_send, rm);
}
