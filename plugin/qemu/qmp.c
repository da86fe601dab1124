/*
 * QMP commands of restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/stat.h>
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

#define RUNS_DEFAULT 4096
#define RUNS_MAX 65536

static RestrictedMemory *backend_by_id(const char *id, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();

    if (!rm || strcmp(object_get_canonical_path_component(OBJECT(rm)), id)) {
        error_setg(errp, "there is no restricted memory backend '%s'", id);
        return NULL;
    }
    return rm;
}

/* A range as pages of the backend; it must lie in one piece of RAM. */
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
        error_setg(errp, "there is no range to change");
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
                       restricted_offset_to_gpa(rm, pages[i].first
                                                << RMEM_PAGE_BITS));
            return NULL;
        }
    }
    *n = len;
    return g_steal_pointer(&pages);
}

/* The guest is on its way out: the states are about to be reset or go away. */
static bool machine_is_leaving(Error **errp)
{
    if (qemu_shutdown_requested_get() || qemu_reset_requested_get()) {
        error_setg(errp, "the guest is being shut down or reset");
        return true;
    }
    return false;
}

static RestrictedMemoryChanged *change_by_qmp(const char *id,
                                              RestrictedMemoryRangeList *ranges,
                                              RestrictedChange change,
                                              Error **errp)
{
    RestrictedMemory *rm = backend_by_id(id, errp);
    g_autofree RestrictedPages *pages = NULL;
    RestrictedMemoryChanged *ret;
    bool ok;

    if (!rm || machine_is_leaving(errp)) {
        return NULL;
    }
    pages = ranges_to_pages(rm, ranges, &change.n, errp);
    if (!pages) {
        return NULL;
    }
    change.ranges = pages;
    change.actor = RMEM_A_MONITOR;

    pause_all_vcpus();
    /* Waiting for the vCPUs has let others run. */
    ok = !machine_is_leaving(errp) && restricted_change(rm, &change, errp);
    resume_all_vcpus();

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
    RestrictedMemory *rm = backend_by_id(id, errp);
    RmemRecord rec = {
        .kind = RMEM_K_POLICY, .actor = RMEM_A_MONITOR,
        .device = RMEM_NO_DEVICE, .verdict = (uint8_t)policy,
    };

    if (!rm) {
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
            .gpa = restricted_offset_to_gpa(rm, pages[i].first
                                            << RMEM_PAGE_BITS),
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
    RestrictedMemory *rm = backend_by_id(id, errp);
    bool end = event == RESTRICTED_MEMORY_INVALIDATE_END;
    g_autofree RestrictedPages *pages = NULL;
    size_t n;

    if (!rm || machine_is_leaving(errp)) {
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
    if (!end && !rm->held++) {
        rm->held_running = runstate_is_running();
        vm_stop(RUN_STATE_PAUSED);
    }
    record_invalidate(rm, pages, n, end);
    if (end && !--rm->held && rm->held_running) {
        vm_start();
    }
}

static uint64_t file_bytes(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 ? st.st_blocks * 512 : 0;
}

static RestrictedMemoryCounters *info_counters(const Rmem *core)
{
    RestrictedMemoryCounters *c = g_new0(RestrictedMemoryCounters, 1);
    const uint64_t *n = core->shared->counters;

    c->accepted = qatomic_read(&n[RMEM_C_ACCEPTED]);
    c->to_shared = qatomic_read(&n[RMEM_C_TO_SHARED]);
    c->to_private = qatomic_read(&n[RMEM_C_TO_PRIVATE]);
    c->discarded = qatomic_read(&n[RMEM_C_DISCARDED]);
    c->poisoned = qatomic_read(&n[RMEM_C_POISONED]);
    c->loaded = qatomic_read(&n[RMEM_C_LOADED]);
    c->conversions = qatomic_read(&n[RMEM_C_CONVERSIONS]);
    c->host_faults = qatomic_read(&n[RMEM_C_HOST_FAULTS]);
    c->host_accesses = qatomic_read(&n[RMEM_C_HOST_ACCESSES]);
    c->guest_faults = qatomic_read(&n[RMEM_C_GUEST_FAULTS]);
    c->guest_violations = qatomic_read(&n[RMEM_C_GUEST_VIOLATIONS]);
    c->resets = qatomic_read(&n[RMEM_C_RESETS]);
    c->events_dropped = qatomic_read(&core->shared->dropped);
    return c;
}

static RestrictedMemoryPages *info_pages(const Rmem *core)
{
    RestrictedMemoryPages *p = g_new0(RestrictedMemoryPages, 1);
    const int64_t *n = core->shared->pages;

    p->pending = qatomic_read(&n[RMEM_PENDING]);
    p->q_private = qatomic_read(&n[RMEM_PRIVATE]);
    p->shared = qatomic_read(&n[RMEM_SHARED]);
    p->poisoned = qatomic_read(&n[RMEM_POISONED]);
    return p;
}

static RestrictedMemoryActorCountList *info_actors(RestrictedMemory *rm)
{
    RestrictedMemoryActorCountList *list = NULL, **tail = &list;

    for (unsigned i = 0; i < rm->actors->len; i++) {
        RestrictedActor *actor = g_ptr_array_index(rm->actors, i);
        RestrictedMemoryActorCount *count;

        count = g_new0(RestrictedMemoryActorCount, 1);
        count->actor = (RestrictedMemoryActor)actor->kind;
        count->id = restricted_actor_name(actor);
        count->index = actor->index;
        count->faults = qatomic_read(&actor->faults);
        count->converted = qatomic_read(&actor->converted);
        QAPI_LIST_APPEND(tail, count);
    }
    return list;
}

static RestrictedMemorySlotList *info_slots(RestrictedMemory *rm)
{
    RestrictedMemorySlotList *list = NULL, **tail = &list;

    for (unsigned i = 0; i < rm->nslots; i++) {
        RestrictedMemorySlot *slot = g_new0(RestrictedMemorySlot, 1);

        slot->gpa = rm->slots[i].gpa;
        slot->offset = rm->slots[i].offset;
        slot->size = rm->slots[i].size;
        QAPI_LIST_APPEND(tail, slot);
    }
    return list;
}

RestrictedMemoryInfoList *qmp_query_restricted_memory(Error **errp)
{
    RestrictedMemoryInfoList *list = NULL;
    RestrictedMemory *rm = restricted_memory();
    RestrictedMemoryInfo *info;

    if (!rm) {
        return NULL;
    }
    info = g_new0(RestrictedMemoryInfo, 1);
    info->id = g_strdup(object_get_canonical_path_component(OBJECT(rm)));
    info->size = MEMORY_BACKEND(rm)->size;
    info->profile = g_strdup(rm->profile_name);
    info->layout = rm->layout;
    info->policy = qatomic_read(&rm->policy);
    info->phase = (RestrictedMemoryPhase)qatomic_read(&rm->core.shared->phase);
    info->debuggable = rm->debuggable;
    info->pages = info_pages(&rm->core);
    info->counters = info_counters(&rm->core);
    info->actors = info_actors(rm);
    info->slots = info_slots(rm);
    info->private_bytes = file_bytes(rm->fds[RESTRICTED_FD_PRIVATE]);
    info->shared_bytes = restricted_is_split(rm)
                         ? file_bytes(rm->fds[RESTRICTED_FD_SHARED]) : 0;
    QAPI_LIST_PREPEND(list, info);
    return list;
}

/* Append the runs of one slot between @from and @to (guest addresses). */
static uint32_t slot_runs(RestrictedMemory *rm, const RestrictedSlot *slot,
                          uint64_t from, uint64_t to, uint32_t limit,
                          RestrictedMemoryRunList ***tail)
{
    uint64_t start = MAX(from, slot->gpa);
    uint64_t end = MIN(to, slot->gpa + slot->size);
    uint32_t n = 0;

    while (start < end && n < limit) {
        uint64_t page = (start - slot->gpa + slot->offset) >> RMEM_PAGE_BITS;
        RmemRun run = rmem_run_at(&rm->core, page,
                                  (end - start) >> RMEM_PAGE_BITS);
        RestrictedMemoryRun *out = g_new0(RestrictedMemoryRun, 1);

        out->gpa = start;
        out->size = run.count << RMEM_PAGE_BITS;
        out->state = (RestrictedMemoryState)run.state;
        QAPI_LIST_APPEND(*tail, out);
        start += out->size;
        n++;
    }
    return n;
}

RestrictedMemoryRunList *
qmp_query_restricted_memory_ranges(const char *id, bool has_gpa, uint64_t gpa,
                                   bool has_size, uint64_t size,
                                   bool has_limit, uint32_t limit,
                                   Error **errp)
{
    RestrictedMemory *rm = backend_by_id(id, errp);
    RestrictedMemoryRunList *list = NULL, **tail = &list;
    uint64_t from = has_gpa ? gpa : 0;
    uint64_t to = has_size ? from + size : UINT64_MAX;

    if (!rm) {
        return NULL;
    }
    if ((from | (has_size ? size : 0)) & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "gpa and size must be multiples of 4096");
        return NULL;
    }
    if (has_size && (!size || to < from)) {
        error_setg(errp, "size 0x%" PRIx64 " does not fit at gpa 0x%" PRIx64,
                   size, from);
        return NULL;
    }
    limit = has_limit ? limit : RUNS_DEFAULT;
    if (!limit || limit > RUNS_MAX) {
        error_setg(errp, "limit must be between 1 and %d", RUNS_MAX);
        return NULL;
    }
    for (unsigned i = 0; i < rm->nslots && limit; i++) {
        limit -= slot_runs(rm, &rm->slots[i], from, to, limit, &tail);
    }
    return list;
}
