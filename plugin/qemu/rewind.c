/*
 * Going back to a checkpoint, because the monitor says so, or a debugger.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See checkpoint.c.
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "migration/snapshot.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/seqlock.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/block-backend.h"
#include "system/cpu-timers-internal.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/checkpoint.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/histories.h"
#include "hw/restricted-memory/qemu/hooks.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/qemu/tlb.h"

static bool empty_overlays(const RestrictedCheckpoint *cp, Error **errp)
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

/*
 * QEMU gives out no time stamp that is lower than the one before. That one is of
 * a time which is not any more: the guest would get all of that time at once.
 */
static void forget_time_stamps(void)
{
    qemu_spin_lock(&timers_state.vm_clock_lock);
    timers_state.cpu_ticks_prev = 0;
    qemu_spin_unlock(&timers_state.vm_clock_lock);
}

/* In this order: a device may write until it is reset, and reads when loaded. */
static bool go_back(RestrictedMemory *rm, unsigned point, uint64_t *pages,
                    Error **errp)
{
    const RestrictedCheckpoint *cp = restricted_checkpoint_at(point);

    for (unsigned i = point; i < restricted_checkpoint_count(); i++) {
        if (!empty_overlays(restricted_checkpoint_at(i), errp)) {
            return false;
        }
    }
    restricted_vm_state_reset();
    if (!restricted_histories_back(rm, point, cp->saved, pages, errp)) {
        return false;
    }
    qatomic_set(&rm->code_awaited, cp->code_awaited);
    forget_time_stamps();
    if (!restricted_vm_state_load(cp->state, RESTRICTED_TO_ITSELF, errp)) {
        return false;
    }
    /* A device that is loaded may reach memory, and be judged for it. */
    WITH_RESTRICTED_LOCK(&rm->lock) {
        rmem_restore(&rm->core, cp->saved);
    }
    restricted_recording_tick();
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
                                const RestrictedCheckpoint *cp, Error **errp)
{
    if (cp->actors != rm->actors->len || cp->cpus != restricted_count_cpus()) {
        error_setg(errp, "a device or CPU was plugged in or out since "
                   "checkpoint '%s'", cp->name);
        return false;
    }
    return true;
}

/* A guest that has ended (panic, triple fault) can run again. */
static void forget_its_end(void)
{
    RunState asked;

    qemu_vmstop_requested(&asked);      /* by the guest as it was */
    restricted_stop_forget();
    if (runstate_check(RUN_STATE_SHUTDOWN)
        || runstate_check(RUN_STATE_INTERNAL_ERROR)) {
        runstate_set(RUN_STATE_PAUSED);
    }
}

/* The VM stays stopped, with the guest as it was at the checkpoint. */
static bool rewind_to(RestrictedMemory *rm, int point, uint64_t *pages,
                      Error **errp)
{
    const RestrictedCheckpoint *cp = restricted_checkpoint_at(point);

    restricted_checkpoint_stop(RUN_STATE_RESTORE_VM);
    if (!go_back(rm, point, pages, errp)) {
        error_append_hint(errp, "The guest has no state any more.\n");
        return false;
    }
    restricted_checkpoint_keep(point + 1);
    restricted_flush();
    if (!restricted_is_recorded()) {
        restricted_record_moment(rm, &(RmemRecord){
            .kind = RMEM_K_REWIND, .gpa = cp->record,
            .pages = MIN(*pages, UINT32_MAX),
        });
    }
    forget_its_end();
    return true;
}

RestrictedMemoryRewound *qmp_restricted_memory_rewind(const char *id,
                                                      const char *name,
                                                      Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    RestrictedMemoryRewound *ret;
    uint64_t pages = 0;
    const RestrictedCheckpoint *cp;
    int point;

    if (!rm || !restricted_vm_may_move(rm, errp)
        || !restricted_may_go_back(errp) || !is_not_copied(errp)
        || !restricted_checkpoint_find(name, &point, errp)) {
        return NULL;
    }
    cp = restricted_checkpoint_at(point);
    if (!is_the_same_machine(rm, cp, errp)) {
        return NULL;
    }
    if (!rewind_to(rm, point, &pages, errp)) {
        return NULL;
    }
    if (cp->was_running) {
        vm_start();
    }
    ret = g_new0(RestrictedMemoryRewound, 1);
    ret->record = cp->record;
    ret->pages = pages;
    return ret;
}

char *restricted_memory_checkpoint_before(int64_t instructions, int64_t *at)
{
    *at = -1;
    for (int i = restricted_checkpoint_count(); i--;) {
        const RestrictedCheckpoint *cp = restricted_checkpoint_at(i);

        if (cp->instructions <= instructions) {
            *at = cp->instructions;
            return g_strdup(cp->name);
        }
    }
    return NULL;
}

/*
 * QEMU goes on after a failure, finds that it is not where it wants to be, and sets
 * @errp itself; so the reason is only told.
 */
void restricted_memory_go_back(const char *name, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();
    uint64_t pages = 0;
    Error *err = NULL;
    int point;

    if (!rm) {
        load_snapshot(name, NULL, false, NULL, errp);
        return;
    }
    if (!restricted_vm_may_move(rm, &err) || !restricted_may_go_back(&err)
        || !restricted_checkpoint_find(name, &point, &err)
        || !rewind_to(rm, point, &pages, &err)) {
        warn_report_err(err);
    }
}
