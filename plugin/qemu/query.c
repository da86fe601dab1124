/*
 * QMP commands that describe restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/stat.h>
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/stop.h"

#define RUNS_DEFAULT 4096
#define RUNS_MAX 65536

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
    c->implicit_conversions
        = qatomic_read(&n[RMEM_C_IMPLICIT_CONVERSIONS]);
    c->resets = qatomic_read(&n[RMEM_C_RESETS]);
    c->kernel_calls = qatomic_read(&n[RMEM_C_KERNEL_CALLS]);
    c->early_calls = qatomic_read(&n[RMEM_C_EARLY_CALLS]);
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
    info->phase = (RestrictedMemoryPhase)rmem_phase(&rm->core);
    info->debuggable = rm->debuggable;
    info->has_late = rm->profile->is_late != NULL;
    info->late = info->has_late && rm->profile->is_late(rm);
    info->pages = info_pages(&rm->core);
    info->counters = info_counters(&rm->core);
    info->actors = info_actors(rm);
    info->slots = info_slots(rm);
    info->private_bytes = file_bytes(rm->fds[RESTRICTED_FD_PRIVATE]);
    info->shared_bytes = restricted_is_split(rm)
                         ? file_bytes(rm->fds[RESTRICTED_FD_SHARED]) : 0;
    info->stopped = restricted_stop_reason();
    QAPI_LIST_PREPEND(list, info);
    return list;
}

/* Append the runs of one slot between guest addresses @from and @to. */
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
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
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
