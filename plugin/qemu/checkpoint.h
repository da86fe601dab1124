/*
 * Checkpoints: what is kept of each, for those who make them and who go back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_CHECKPOINT_H
#define HW_RESTRICTED_MEMORY_QEMU_CHECKPOINT_H

#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/vm-state.h"

typedef struct RestrictedCheckpoint {
    char *name;
    RestrictedVmState *state;
    RmemSaved *saved;
    GArray *seen;           /* see judge.c */
    strList *overlays;      /* nodes that take the writes since */
    uint64_t record;        /* its number in the journal */
    int64_t vtime_ns;
    int64_t instructions;   /* executed until then, while they are counted */
    unsigned actors, cpus;
    bool was_running, code_awaited;
} RestrictedCheckpoint;

/* They are in the order of time. BQL. */
unsigned restricted_checkpoint_count(void);
RestrictedCheckpoint *restricted_checkpoint_at(unsigned point);
/* Drop all but the first @count. */
void restricted_checkpoint_keep(unsigned count);

/* False and @errp: there is none of that name. */
bool restricted_checkpoint_find(const char *name, int *index, Error **errp);
/* Stop the VM, with all that was asked of CPUs and disks done; did it run? */
bool restricted_checkpoint_stop(RunState state);
unsigned restricted_count_cpus(void);

#endif
