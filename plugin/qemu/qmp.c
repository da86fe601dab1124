/*
 * QMP commands that change restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/trace.h"

RestrictedMemory *restricted_memory_by_id(const char *id, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();

    if (!rm || strcmp(object_get_canonical_path_component(OBJECT(rm)), id)) {
        error_setg(errp, "there is no restricted memory backend '%s'", id);
        return NULL;
    }
    return rm;
}

/* A range as pages of the backend; it must be in one slot. */
static bool range_to_pages(RestrictedMemory *rm,
                           const RestrictedMemoryRange *range,
                           RestrictedPages *pages, Error **errp)
{
    const RestrictedSlot *slot = restricted_slot(rm, range->gpa);

    if (!range->size) {
        error_setg(errp, "range at gpa 0x%" PRIx64 " is empty", range->gpa);
        return false;
    }
    if ((range->gpa | range->size) & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "range at gpa 0x%" PRIx64 ", size 0x%" PRIx64
                   " is not aligned to 4 KiB", range->gpa, range->size);
        return false;
    }
    if (!slot || range->size > slot->size - (range->gpa - slot->gpa)) {
        error_setg(errp, "range at gpa 0x%" PRIx64 ", size 0x%" PRIx64
                   " is not RAM of the guest", range->gpa, range->size);
        return false;
    }
    pages->first = (range->gpa - slot->gpa + slot->offset) >> RMEM_PAGE_BITS;
    pages->count = range->size >> RMEM_PAGE_BITS;
    return true;
}

static int pages_compare(const void *a, const void *b)
{
    const RestrictedPages *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static RestrictedPages *ranges_to_pages(RestrictedMemory *rm,
                                        RestrictedMemoryRangeList *ranges,
                                        size_t *n, Error **errp)
{
    size_t len = QAPI_LIST_LENGTH(ranges), i = 0;
    g_autofree RestrictedPages *pages = g_new(RestrictedPages, len);

    if (!len) {
        error_setg(errp, "no range was given");
        return NULL;
    }
    for (; ranges; ranges = ranges->next) {
        if (!range_to_pages(rm, ranges->value, &pages[i++], errp)) {
            return NULL;
        }
    }
    qsort(pages, len, sizeof(*pages), pages_compare);
    for (i = 1; i < len; i++) {
        if (pages[i].first < pages[i - 1].first + pages[i - 1].count) {
            error_setg(errp, "ranges overlap at gpa 0x%" PRIx64,
                       restricted_page_to_gpa(rm, pages[i].first));
            return NULL;
        }
    }
    *n = len;
    return g_steal_pointer(&pages);
}

static void record_content(RestrictedMemory *rm, const RestrictedChange *change)
{
    for (size_t i = 0; i < change->n; i++) {
        RmemRecord rec = {
            .kind = RMEM_K_HOST_FAULT, .actor = RMEM_A_MONITOR,
            .device = rm->monitor.index,
            .verdict = rm->debuggable ? RMEM_V_ALLOW : RMEM_V_DENY,
            .from = RMEM_PRIVATE, .to = RMEM_PRIVATE,
            .gpa = restricted_page_to_gpa(rm, change->ranges[i].first),
            .pages = MIN(change->ranges[i].count, UINT32_MAX),
            .flags = change->event == RMEM_TO_PRIVATE ? RMEM_F_WRITE : 0,
        };

        restricted_record(rm, &rec);
    }
    rmem_count(&rm->core, RMEM_C_HOST_ACCESSES, change->n);
    if (!rm->debuggable) {
        rmem_count(&rm->core, RMEM_C_HOST_FAULTS, change->n);
        qatomic_add(&rm->monitor.faults, change->n);
    }
}

/*
 * Where private and shared memory are two files, no host keeps content that
 * changes sides: the monitor would read it, or write it, as memory that is
 * private. Where they are one file, content stays by definition, and the record of
 * the conversion says who asked for it.
 */
static bool may_keep_content(RestrictedMemory *rm,
                             const RestrictedChange *change, Error **errp)
{
    if (!change->preserve || !restricted_is_split(rm)) {
        return true;
    }
    record_content(rm, change);
    if (!rm->debuggable) {
        error_setg(errp, "content that is private cannot be kept: the host "
                   "would have access to it; say content=discard, or start "
                   "the VM with debuggable=on");
    }
    return rm->debuggable;
}

static RestrictedMemoryChanged *change_by_qmp(const char *id,
                                              RestrictedMemoryRangeList *ranges,
                                              RestrictedChange change,
                                              Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    g_autofree RestrictedPages *pages = NULL;
    RestrictedMemoryChanged *ret;
    bool ok;

    if (!rm || !restricted_may_change(rm, errp)
        || !restricted_may_intervene(errp)) {
        return NULL;
    }
    pages = ranges_to_pages(rm, ranges, &change.n, errp);
    if (!pages) {
        return NULL;
    }
    change.ranges = pages;
    change.actor = RMEM_A_MONITOR;
    if (!may_keep_content(rm, &change, errp)) {
        return NULL;
    }

    pause_all_vcpus();
    /* The wait for the vCPUs has let other code run. */
    ok = restricted_may_change(rm, errp) && restricted_change(rm, &change, errp);
    restricted_resume_vcpus();

    trace_rmem_qmp_change(rmem_event_name(change.event), change.changed,
                          ok ? "done" : "refused");
    if (!ok) {
        return NULL;
    }
    ret = g_new0(RestrictedMemoryChanged, 1);
    ret->pages = change.changed;
    return ret;
}

RestrictedMemoryChanged *
qmp_restricted_memory_convert(const char *id, RestrictedMemoryTarget to,
                              RestrictedMemoryRangeList *ranges,
                              bool has_content, RestrictedMemoryContent content,
                              Error **errp)
{
    RestrictedMemory *rm = restricted_memory();
    bool preserve = has_content
                    ? content == RESTRICTED_MEMORY_CONTENT_PRESERVE
                    : rm && !restricted_is_split(rm);
    RestrictedChange change = {
        .event = to == RESTRICTED_MEMORY_TARGET_SHARED ? RMEM_TO_SHARED
                                                       : RMEM_TO_PRIVATE,
        .preserve = preserve,
    };

    return change_by_qmp(id, ranges, change, errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_accept(const char *id, RestrictedMemoryRangeList *ranges,
                             Error **errp)
{
    RestrictedChange change = { .event = RMEM_ACCEPT };

    return change_by_qmp(id, ranges, change, errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_discard(const char *id,
                              RestrictedMemoryRangeList *ranges, Error **errp)
{
    RestrictedChange change = { .event = RMEM_DISCARD };

    return change_by_qmp(id, ranges, change, errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_poison(const char *id, RestrictedMemoryRangeList *ranges,
                             Error **errp)
{
    RestrictedChange change = { .event = RMEM_POISON };

    return change_by_qmp(id, ranges, change, errp);
}

void qmp_restricted_memory_set_policy(const char *id,
                                      RestrictedMemoryPolicy policy,
                                      Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    RmemRecord rec = {
        .kind = RMEM_K_POLICY, .actor = RMEM_A_MONITOR,
        .device = RMEM_NO_DEVICE, .verdict = (uint8_t)policy,
    };

    if (!rm || !restricted_own(rm, errp)
        || !restricted_may_intervene(errp)) {
        return;
    }
    if (policy == RESTRICTED_MEMORY_POLICY_SHARE && restricted_is_split(rm)) {
        error_setg(errp, "policy 'share' needs the in-place layout");
        return;
    }
    qatomic_set(&rm->policy, policy);
    restricted_record(rm, &rec);
}

static void record_invalidate(RestrictedMemory *rm, const RestrictedPages *pages,
                              size_t n, bool end)
{
    for (size_t i = 0; i < n; i++) {
        RmemRecord rec = {
            .kind = RMEM_K_INVALIDATE, .actor = RMEM_A_HOST,
            .device = RMEM_NO_DEVICE, .flags = end,
            .gpa = restricted_page_to_gpa(rm, pages[i].first),
            .pages = MIN(pages[i].count, UINT32_MAX),
        };

        restricted_record(rm, &rec);
    }
}

void qmp_restricted_memory_invalidate(const char *id,
                                      RestrictedMemoryInvalidate event,
                                      RestrictedMemoryRangeList *ranges,
                                      Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    bool end = event == RESTRICTED_MEMORY_INVALIDATE_END;
    g_autofree RestrictedPages *pages = NULL;
    size_t n;

    if (!rm || !restricted_may_change(rm, errp)
        || !restricted_may_intervene(errp)) {
        return;
    }
    pages = ranges_to_pages(rm, ranges, &n, errp);
    if (!pages) {
        return;
    }
    if (end && !rm->held) {
        error_setg(errp, "invalidate end without a start");
        return;
    }
    if (!end) {
        rm->held++;
        if (runstate_is_live(runstate_get())) {
            rm->held_running = true;
            vm_stop(RUN_STATE_PAUSED);
        }
    }
    record_invalidate(rm, pages, n, end);
    if (end && !--rm->held && rm->held_running) {
        rm->held_running = false;
        /* Not if it was shut down or failed in the meantime. */
        if (runstate_check(RUN_STATE_PAUSED)) {
            vm_start();
        }
    }
}
