/*
 * Programs without restricted memory: a QEMU without TCG, the storage daemon.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "hw/restricted-memory/qemu/hooks-cpu.h"

bool restricted_memory_active;

bool restricted_memory_refuse_state(const char *what, Error **errp)
{
    return false;
}

MemoryRegion *restricted_memory_cpu_root(void)
{
    g_assert_not_reached();
}

static void *none_here(Error **errp)
{
    error_setg(errp, "this program has no restricted memory");
    return NULL;
}

RestrictedMemoryInfoList *qmp_query_restricted_memory(Error **errp)
{
    return NULL;
}

RestrictedMemoryRunList *
qmp_query_restricted_memory_ranges(const char *id, bool has_gpa, uint64_t gpa,
                                   bool has_size, uint64_t size,
                                   bool has_limit, uint32_t limit,
                                   Error **errp)
{
    return none_here(errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_convert(const char *id, RestrictedMemoryTarget to,
                              RestrictedMemoryRangeList *ranges,
                              bool has_content, RestrictedMemoryContent content,
                              Error **errp)
{
    return none_here(errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_accept(const char *id, RestrictedMemoryRangeList *ranges,
                             Error **errp)
{
    return none_here(errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_discard(const char *id,
                              RestrictedMemoryRangeList *ranges, Error **errp)
{
    return none_here(errp);
}

RestrictedMemoryChanged *
qmp_restricted_memory_poison(const char *id, RestrictedMemoryRangeList *ranges,
                             Error **errp)
{
    return none_here(errp);
}

void qmp_restricted_memory_set_policy(const char *id,
                                      RestrictedMemoryPolicy policy,
                                      Error **errp)
{
    none_here(errp);
}

void qmp_restricted_memory_invalidate(const char *id,
                                      RestrictedMemoryInvalidate event,
                                      RestrictedMemoryRangeList *ranges,
                                      Error **errp)
{
    none_here(errp);
}

RestrictedMemoryCheckpoint *
qmp_restricted_memory_checkpoint(const char *id, const char *name,
                                 bool has_disks,
                                 RestrictedMemoryDiskList *disks, Error **errp)
{
    return none_here(errp);
}

RestrictedMemoryRewound *qmp_restricted_memory_rewind(const char *id,
                                                      const char *name,
                                                      Error **errp)
{
    return none_here(errp);
}

void qmp_restricted_memory_checkpoint_drop(const char *id, const char *name,
                                           Error **errp)
{
    none_here(errp);
}

RestrictedMemoryCheckpointList *
qmp_query_restricted_memory_checkpoints(const char *id, Error **errp)
{
    return none_here(errp);
}

void qmp_restricted_memory_follow_writes(const char *id, bool on, Error **errp)
{
    none_here(errp);
}

void qmp_restricted_memory_take_writes(const char *id, const char *file,
                                       Error **errp)
{
    none_here(errp);
}

RestrictedMemorySaved *qmp_restricted_memory_save(const char *id,
                                                  const char *file,
                                                  Error **errp)
{
    return none_here(errp);
}

void qmp_restricted_memory_restore(const char *id, const char *file,
                                   Error **errp)
{
    none_here(errp);
}

RestrictedMemoryCore *qmp_restricted_memory_dump(const char *id,
                                                 bool q_private, Error **errp)
{
    return none_here(errp);
}

void qmp_restricted_memory_stop_at(const char *id, bool has_event,
                                   RestrictedMemoryEvent event, bool has_gpa,
                                   uint64_t gpa, bool has_record,
                                   uint64_t record, bool has_pc, uint64_t pc,
                                   Error **errp)
{
    none_here(errp);
}
