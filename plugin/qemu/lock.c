/*
 * The plugin's locks, and the order in which they are taken.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/error-report.h"
#include "hw/restricted-memory/qemu/lock.h"

#define HELD_MAX 4

static bool checks;
static QemuMutexLockFunc take_mutex, take_bql;

static __thread struct {
    const RestrictedLock *locks[HELD_MAX];
    unsigned n;
} held;

static G_NORETURN void wrong_order(const char *wanted, const char *file,
                                   int line)
{
    const char *name = held.locks[held.n - 1]->name;

    held.n = 0;                 /* the report takes locks as well */
    error_report("lock order: %s is taken at %s:%d while %s is held", wanted,
                 file, line, name);
    abort();
}

static void check_bql(QemuMutex *mutex, const char *file, int line)
{
    if (held.n) {
        wrong_order("the BQL", file, line);
    }
    take_bql(mutex, file, line);
}

static void check_mutex(QemuMutex *mutex, const char *file, int line)
{
    if (held.n && held.locks[held.n - 1]->rank == RESTRICTED_RANK_LEAF) {
        wrong_order("a mutex", file, line);
    }
    take_mutex(mutex, file, line);
}

static void note_held(const RestrictedLock *lock)
{
    if (held.n && held.locks[held.n - 1]->rank >= lock->rank) {
        wrong_order(lock->name, __FILE__, __LINE__);
    }
    g_assert(held.n < HELD_MAX);
    held.locks[held.n++] = lock;
}

RestrictedLock *restricted_lock(RestrictedLock *lock)
{
    qemu_mutex_lock(&lock->mutex);
    if (unlikely(checks)) {
        note_held(lock);
    }
    return lock;
}

void restricted_unlock(RestrictedLock *lock)
{
    if (unlikely(checks)) {
        g_assert(held.n && held.locks[held.n - 1] == lock);
        held.n--;
    }
    qemu_mutex_unlock(&lock->mutex);
}

void restricted_lock_init(RestrictedLock *lock, const char *name,
                          RestrictedRank rank)
{
    qemu_mutex_init(&lock->mutex);
    lock->name = name;
    lock->rank = rank;
}

void restricted_lock_destroy(RestrictedLock *lock)
{
    qemu_mutex_destroy(&lock->mutex);
}

static void break_order(void)
{
    RestrictedLock leaf, states;

    restricted_lock_init(&leaf, "a leaf", RESTRICTED_RANK_LEAF);
    restricted_lock_init(&states, "the lock of page states",
                         RESTRICTED_RANK_STATES);
    RESTRICTED_LOCK_GUARD(&leaf);
    RESTRICTED_LOCK_GUARD(&states);
}

/* Before there is a second thread that takes one of these locks. */
void restricted_lock_checks_init(void)
{
    const char *wanted = g_getenv("CVMLAB_LOCK_ORDER");

    if (!wanted || checks) {
        return;
    }
    take_bql = qatomic_read(&bql_mutex_lock_func);
    take_mutex = qatomic_read(&qemu_mutex_lock_func);
    checks = true;
    qatomic_set(&bql_mutex_lock_func, check_bql);
    qatomic_set(&qemu_mutex_lock_func, check_mutex);
    if (!strcmp(wanted, "broken")) {
        break_order();
    }
}
