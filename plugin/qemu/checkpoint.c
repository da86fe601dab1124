/*
 * Checkpoints: moments to which the guest can go back, within this process.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A checkpoint is the state of CPUs and devices (vm-state.c), the page-state
 * table with its counters (core/saved.c), and a point in the history of each
 * memory file (core/history.c). The first one copies the files; all that comes
 * after it costs the pages that were written meanwhile (dirty.c).
 *
 * Checkpoints are in the order of time. Going back to one drops the later ones.
 * A disk goes back by an overlay that was made for it with the checkpoint: it
 * is emptied.
 *
 * The journal is not taken back: it goes on with a record that says where the
 * guest went. All commands run in the main thread.
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/checkpoint.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/histories.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/recording.h"

#define CHECKPOINTS_MAX 64

/* RestrictedCheckpoint, in the order of time; NULL: there was none yet. */
static GPtrArray *checkpoints;

unsigned restricted_checkpoint_count(void)
{
    return checkpoints ? checkpoints->len : 0;
}

RestrictedCheckpoint *restricted_checkpoint_at(unsigned point)
{
    return g_ptr_array_index(checkpoints, point);
}

void restricted_checkpoint_keep(unsigned count)
{
    g_ptr_array_set_size(checkpoints, count);
}

static void checkpoint_free(void *opaque)
{
    RestrictedCheckpoint *cp = opaque;

    g_free(cp->name);
    restricted_vm_state_free(cp->state);
    rmem_saved_free(cp->saved);
    g_clear_pointer(&cp->seen, g_array_unref);
    qapi_free_strList(cp->overlays);
    g_free(cp);
}

static int find(const char *name)
{
    for (unsigned i = 0; i < restricted_checkpoint_count(); i++) {
        if (!strcmp(restricted_checkpoint_at(i)->name, name)) {
            return i;
        }
    }
    return -1;
}

bool restricted_checkpoint_find(const char *name, int *index, Error **errp)
{
    *index = find(name);
    if (*index < 0) {
        error_setg(errp, "there is no checkpoint '%s'", name);
    }
    return *index >= 0;
}

/* Stop it, with all that was asked of CPUs and disks done. */
bool restricted_checkpoint_stop(RunState state)
{
    bool was_running = runstate_is_running();

    vm_stop(state);
    restricted_finish_cpu_work();
    return was_running;
}

unsigned restricted_count_cpus(void)
{
    CPUState *cpu;
    unsigned n = 0;

    CPU_FOREACH(cpu) {
        n++;
    }
    return n;
}

/*
 * The node that takes an overlay: a recorded disk has a filter on top, which has to
 * stay there. NULL: that of the device.
 */
static const char *node_below(const char *device)
{
    BlockDriverState *bs = bdrv_lookup_bs(device, NULL, NULL);

    return bs && restricted_is_recorded() && bdrv_filter_child(bs)
           ? bdrv_get_node_name(bdrv_filter_bs(bs)) : NULL;
}

static bool add_overlays(RestrictedCheckpoint *cp,
                         RestrictedMemoryDiskList *disks, Error **errp)
{
    ERRP_GUARD();

    for (; disks; disks = disks->next) {
        const RestrictedMemoryDisk *disk = disks->value;
        const char *node = node_below(disk->device);

        qmp_blockdev_snapshot_sync(node ? NULL : disk->device, node, disk->file,
                                   disk->overlay, "qcow2", false, 0, errp);
        if (*errp) {
            return false;
        }
        QAPI_LIST_PREPEND(cp->overlays, g_strdup(disk->overlay));
    }
    return true;
}

/* What a debugger of a replay does is no part of what was recorded. */
static uint64_t record_checkpoint(RestrictedMemory *rm)
{
    return restricted_is_recorded()
           ? qatomic_read(&rm->core.shared->head)
           : restricted_record_moment(
                 rm, &(RmemRecord){ .kind = RMEM_K_CHECKPOINT });
}

static bool save(RestrictedMemory *rm, RestrictedCheckpoint *cp,
                 RestrictedMemoryDiskList *disks, Error **errp)
{
    cp->state = restricted_vm_state_save(errp);
    if (!cp->state || !add_overlays(cp, disks, errp)) {
        return false;
    }
    cp->record = record_checkpoint(rm);
    cp->saved = rmem_save(&rm->core);
    cp->seen = restricted_seen_save(rm);
    cp->actors = rm->actors->len;
    cp->cpus = restricted_count_cpus();
    cp->code_awaited = qatomic_read(&rm->code_awaited);
    cp->vtime_ns = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    cp->instructions = icount_enabled() ? icount_get_raw() : 0;
    if (!cp->saved || !restricted_histories_add(rm)) {
        error_setg(errp, "the host has no memory for a checkpoint");
        return false;
    }
    return true;
}

static RestrictedMemoryCheckpoint *describe(const RestrictedCheckpoint *cp)
{
    RestrictedMemoryCheckpoint *info = g_new0(RestrictedMemoryCheckpoint, 1);

    info->name = g_strdup(cp->name);
    info->record = cp->record;
    info->vtime_ns = cp->vtime_ns;
    info->running = cp->was_running;
    return info;
}

static bool may_be_added(RestrictedMemory *rm, const char *name, Error **errp)
{
    checkpoints = checkpoints ?: g_ptr_array_new_with_free_func(checkpoint_free);
    if (!*name) {
        error_setg(errp, "a checkpoint needs a name");
        return false;
    }
    if (find(name) >= 0) {
        error_setg(errp, "checkpoint '%s' exists already", name);
        return false;
    }
    if (checkpoints->len == CHECKPOINTS_MAX) {
        error_setg(errp, "there are %d checkpoints already: drop one",
                   CHECKPOINTS_MAX);
        return false;
    }
    return restricted_vm_may_be_saved(rm, errp);
}

RestrictedMemoryCheckpoint *
qmp_restricted_memory_checkpoint(const char *id, const char *name,
                                 bool has_disks,
                                 RestrictedMemoryDiskList *disks, Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    RestrictedCheckpoint *cp;
    bool saved;

    if (!rm || !restricted_vm_may_move(rm, errp)
        || !restricted_may_go_back(errp) || !may_be_added(rm, name, errp)) {
        return NULL;
    }
    cp = g_new0(RestrictedCheckpoint, 1);
    cp->name = g_strdup(name);
    cp->was_running = restricted_checkpoint_stop(RUN_STATE_SAVE_VM);
    saved = save(rm, cp, has_disks ? disks : NULL, errp);
    if (cp->was_running) {
        vm_start();
    }
    if (!saved) {
        checkpoint_free(cp);
        if (!checkpoints->len) {
            restricted_histories_end(rm);
        }
        return NULL;
    }
    g_ptr_array_add(checkpoints, cp);
    return describe(cp);
}

/* Its overlays stay: they are parts of the disks now. */
void qmp_restricted_memory_checkpoint_drop(const char *id, const char *name,
                                           Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    int point;

    if (!rm || !restricted_checkpoint_find(name, &point, errp)) {
        return;
    }
    if (!restricted_histories_drop(rm, point)) {
        error_setg(errp, "the host has no memory to merge checkpoints");
        return;
    }
    if (point) {
        /* To go back to the one before is to empty these as well. */
        RestrictedCheckpoint *cp = restricted_checkpoint_at(point);
        RestrictedCheckpoint *before = restricted_checkpoint_at(point - 1);
        strList **tail = &before->overlays;

        while (*tail) {
            tail = &(*tail)->next;
        }
        *tail = g_steal_pointer(&cp->overlays);
    }
    g_ptr_array_remove_index(checkpoints, point);
    if (!checkpoints->len) {
        restricted_histories_end(rm);
    }
}

RestrictedMemoryCheckpointList *
qmp_query_restricted_memory_checkpoints(const char *id, Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    RestrictedMemoryCheckpointList *list = NULL;

    for (int i = rm ? restricted_checkpoint_count() : 0; i--;) {
        QAPI_LIST_PREPEND(list, describe(restricted_checkpoint_at(i)));
    }
    return list;
}
