/*
 * The plugin's locks, and the order in which they are taken.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In this order, each may be held when a later one is taken, never the other
 * way round:
 *
 *  1. the BQL
 *  2. RestrictedMemory.lock: held while page states change, with their content,
 *     storage and records. The exception is acceptance by a touch (rmem_touch(),
 *     rmem_apply_page()), which is one compare-and-exchange. Whoever holds it
 *     may wait: for a file system, for QEMU's page locks of translated code and
 *     its locks of TLBs, and, with events=lossless, up to a second for room in
 *     the ring.
 *  3. leaves, under which no mutex is taken at all: RestrictedMemory.seen_lock,
 *     TdxGuest.rtmr_lock, that of a stop's reason (stop.c). The spinlock of the
 *     QMP summaries (events.c) is a leaf as well.
 *
 * With CVMLAB_LOCK_ORDER in QEMU's environment this is checked whenever a thread
 * takes a mutex, QEMU's own ones included, and QEMU aborts when it is not so.
 * The value "broken" breaks the order once, to see whether the check works.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_LOCK_H
#define HW_RESTRICTED_MEMORY_QEMU_LOCK_H

#include "qemu/thread.h"

typedef enum RestrictedRank { RESTRICTED_RANK_STATES, RESTRICTED_RANK_LEAF }
    RestrictedRank;

typedef struct RestrictedLock {
    QemuMutex mutex;
    const char *name;
    RestrictedRank rank;
} RestrictedLock;

void restricted_lock_init(RestrictedLock *lock, const char *name,
                          RestrictedRank rank);
void restricted_lock_destroy(RestrictedLock *lock);
RestrictedLock *restricted_lock(RestrictedLock *lock);
void restricted_unlock(RestrictedLock *lock);
/* Look at the environment. */
void restricted_lock_checks_init(void);

static inline void restricted_unlock_auto(RestrictedLock **lock)
{
    if (*lock) {
        restricted_unlock(*lock);
    }
}

/* Hold @lock to the end of the block. */
#define RESTRICTED_LOCK_GUARD(lock)                                         \
    __attribute__((cleanup(restricted_unlock_auto)))                        \
    RestrictedLock *glue(restricted_guard_, __LINE__) G_GNUC_UNUSED         \
        = restricted_lock(lock)

/* Hold @lock during the block that follows. */
#define WITH_RESTRICTED_LOCK(lock)                                          \
    for (__attribute__((cleanup(restricted_unlock_auto)))                   \
         RestrictedLock *restricted_held = restricted_lock(lock);           \
         restricted_held;                                                   \
         restricted_unlock(restricted_held), restricted_held = NULL)

#endif
