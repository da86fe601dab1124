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
#include "block/block-global-state.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/block-backend.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/histories.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/qemu/vm-state.h"

#define CHECKPOINTS_MAX 64

typedef struct Checkpoint {
    char *name;
    RestrictedVmState *state;
    RmemSaved *saved;
    GArray *seen;           /* see judge.c */
    strList *overlays;      /* nodes that take the writes since */
    uint64_t record;        /* its number in the journal */
    int64_t vtime_ns;
    unsigned actors, cpus;
    bool was_running, code_awaited;
} Checkpoint;

static GPtrArray *checkpoints;          /* Checkpoint, in the order of time */

static void checkpoint_free(void *opaque)
{
    Checkpoint *cp = opaque;

    g_free(cp->name);
    restricted_vm_state_free(cp->state);
    rmem_saved_free(cp->saved);
    g_clear_pointer(&cp->seen, g_array_unref);
    qapi_free_strList(cp->overlays);
    g_free(cp);
}

static int find(const char *name)
{
    for (unsigned i = 0; checkpoints && i < checkpoints->len; i++) {
        const Checkpoint *cp = g_ptr_array_index(checkpoints, i);

        if (!strcmp(cp->name, name)) {
            return i;
        }
    }
    return -1;
}

static bool find_or_refuse(const char *name, int *index, Error **errp)
{
    *index = find(name);
    if (*index < 0) {
        error_setg(errp, "there is no checkpoint '%s'", name);
    }
    return *index >= 0;
}

static void nothing(CPUState *cpu, run_on_cpu_data data)
{
}

/* Stop it, with all that was asked of CPUs and disks done. */
static bool stop_vm(RunState state)
{
    bool was_running = runstate_is_running();
    CPUState *cpu;

    vm_stop(state);
    CPU_FOREACH(cpu) {
        run_on_cpu(cpu, nothing, RUN_ON_CPU_NULL);
    }
    return was_running;
}

static unsigned count_cpus(void)
{
    CPUState *cpu;
    unsigned n = 0;

    CPU_FOREACH(cpu) {
        n++;
    }
    return n;
}

static bool add_overlays(Checkpoint *cp, RestrictedMemoryDiskList *disks,
                         Error **errp)
{
    ERRP_GUARD();

    for (; disks; disks = disks->next) {
        const RestrictedMemoryDisk *disk = disks->value;

        qmp_blockdev_snapshot_sync(disk->device, NULL, disk->file,
                                   disk->overlay, "qcow2", false, 0, errp);
        if (*errp) {
            return false;
        }
        QAPI_LIST_PREPEND(cp->overlays, g_strdup(disk->overlay));
    }
    return true;
}

static bool save(RestrictedMemory *rm, Checkpoint *cp,
                 RestrictedMemoryDiskList *disks, Error **errp)
{
    cp->state = restricted_vm_state_save(errp);
    if (!cp->state || !add_overlays(cp, disks, errp)) {
        return false;
    }
    cp->record = restricted_record_moment(
        rm, &(RmemRecord){ .kind = RMEM_K_CHECKPOINT });
    cp->saved = rmem_save(&rm->core);
    cp->seen = restricted_seen_save(rm);
    cp->actors = rm->actors->len;
    cp->cpus = count_cpus();
    cp->code_awaited = qatomic_read(&rm->code_awaited);
    cp->vtime_ns = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    if (!cp->saved || !restricted_histories_add(rm)) {
        error_setg(errp, "the host has no memory for a checkpoint");
        return false;
    }
    return true;
}

static RestrictedMemoryCheckpoint *describe(const Checkpoint *cp)
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
    Checkpoint *cp;
    bool saved;

    if (!rm || !restricted_vm_may_move(rm, errp) || !may_be_added(rm, name, errp)) {
        return NULL;
    }
    cp = g_new0(Checkpoint, 1);
    cp->name = g_strdup(name);
    cp->was_running = stop_vm(RUN_STATE_SAVE_VM);
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

static bool empty_overlays(const Checkpoint *cp, Error **errp)
{
    for (const strList *node = cp->overlays; node; node = node->next) {
        BlockDriverState *bs = bdrv_lookup_bs(NULL, node->value, errp);
        BlockBackend *blk;
        int ret;

        if (!bs) {
            return false;
        }
        blk = blk_new_with_bs(bs, BLK_PERM_WRITE_UNCHANGED, BLK_PERM_ALL, errp);
        if (!blk) {
            return false;
        }
        ret = blk_make_empty(blk, errp);
        blk_unref(blk);
        if (ret < 0) {
            return false;
        }
    }
    return true;
}

/* In this order: a device may write until it is reset, and reads when loaded. */
static bool go_back(RestrictedMemory *rm, unsigned point, uint64_t *pages,
                    Error **errp)
{
    const Checkpoint *cp = g_ptr_array_index(checkpoints, point);

    for (unsigned i = point; i < checkpoints->len; i++) {
        if (!empty_overlays(g_ptr_array_index(checkpoints, i), errp)) {
            return false;
        }
    }
    restricted_vm_state_reset();
    if (!restricted_histories_back(rm, point, cp->saved, pages, errp)) {
        return false;
    }
    qatomic_set(&rm->code_awaited, cp->code_awaited);
    if (!restricted_vm_state_load(cp->state, RESTRICTED_TO_ITSELF, errp)) {
        return false;
    }
    /* A device that is loaded may reach memory, and be judged for it. */
    WITH_RESTRICTED_LOCK(&rm->lock) {
        rmem_restore(&rm->core, cp->saved);
    }
    restricted_debug_view_moved(rm, &(RestrictedPages){ 0, rm->core.pages });
    restricted_seen_restore(rm, cp->seen);
    if (rm->profile->forget_requests) {
        rm->profile->forget_requests(rm);
    }
    return true;
}

static bool is_not_copied(Error **errp)
{
    if (restricted_dirty_is_on(RESTRICTED_DIRTY_FOR_COPY)) {
        error_setg(errp, "the VM's memory is being copied: end that first");
        return false;
    }
    return true;
}

static bool is_the_same_machine(const RestrictedMemory *rm,
                                const Checkpoint *cp, Error **errp)
{
    if (cp->actors != rm->actors->len || cp->cpus != count_cpus()) {
        error_setg(errp, "a device or CPU was plugged in or out since "
                   "checkpoint '%s'", cp->name);
        return false;
    }
    return true;
}

/* A guest that has ended (panic, triple fault) runs again. */
static void run_as_before(const Checkpoint *cp)
{
    RunState asked;

    qemu_vmstop_requested(&asked);      /* by the guest as it was */
    restricted_stop_forget();
    if (!cp->was_running) {
        return;
    }
    if (runstate_check(RUN_STATE_SHUTDOWN)
        || runstate_check(RUN_STATE_INTERNAL_ERROR)) {
        runstate_set(RUN_STATE_PAUSED);
    }
    vm_start();
}

RestrictedMemoryRewound *qmp_restricted_memory_rewind(const char *id,
                                                      const char *name,
                                                      Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    RestrictedMemoryRewound *ret;
    uint64_t pages = 0;
    const Checkpoint *cp;
    int point;

    if (!rm || !restricted_vm_may_move(rm, errp) || !is_not_copied(errp)
        || !find_or_refuse(name, &point, errp)) {
        return NULL;
    }
    cp = g_ptr_array_index(checkpoints, point);
    if (!is_the_same_machine(rm, cp, errp)) {
        return NULL;
    }
    stop_vm(RUN_STATE_RESTORE_VM);
    if (!go_back(rm, point, &pages, errp)) {
        error_append_hint(errp, "The guest has no state any more.\n");
        return NULL;
    }
    g_ptr_array_set_size(checkpoints, point + 1);
    restricted_flush();
    restricted_record_moment(rm, &(RmemRecord){
        .kind = RMEM_K_REWIND, .gpa = cp->record,
        .pages = MIN(pages, UINT32_MAX),
    });
    run_as_before(cp);
    ret = g_new0(RestrictedMemoryRewound, 1);
    ret->record = cp->record;
    ret->pages = pages;
    return ret;
}

/* Its overlays stay: they are parts of the disks now. */
void qmp_restricted_memory_checkpoint_drop(const char *id, const char *name,
                                           Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    int point;

    if (!rm || !find_or_refuse(name, &point, errp)) {
        return;
    }
    if (!restricted_histories_drop(rm, point)) {
        error_setg(errp, "the host has no memory to merge checkpoints");
        return;
    }
    if (point) {
        /* To go back to the one before is to empty these as well. */
        Checkpoint *cp = g_ptr_array_index(checkpoints, point);
        Checkpoint *before = g_ptr_array_index(checkpoints, point - 1);
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

    for (int i = rm && checkpoints ? checkpoints->len : 0; i--;) {
        QAPI_LIST_PREPEND(list, describe(g_ptr_array_index(checkpoints, i)));
    }
    return list;
}
