/*
 * The files behind the backend: inherited, or created here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/memfd.h"
#include "migration/vmstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/files.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define RING_DEFAULT_RECORDS 65536

const char *const restricted_fd_property[RESTRICTED_FDS] = {
    "private-fd", "shared-fd", "table-fd", "ring-fd", "stacks-fd",
};

/*
 * An inherited memfd is in other hands as well. Seal it, so that nobody can
 * shorten it or forbid QEMU to change it while the guest runs.
 */
static bool files_seal(int which, int fd, Error **errp)
{
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0) {
        return true;            /* a file in a file system has none */
    }
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) {
        error_setg(errp, "%s=%d is sealed against writing",
                   restricted_fd_property[which], fd);
        return false;
    }
    if (!(seals & F_SEAL_SEAL)
        && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
           < 0) {
        error_setg_errno(errp, errno, "%s=%d cannot be sealed",
                         restricted_fd_property[which], fd);
        return false;
    }
    return true;
}

/* Open file @which, at least @size bytes long; -1 and @errp on failure. */
static int files_open(RestrictedMemory *rm, int which, uint64_t size,
                      Error **errp)
{
    int fd = rm->fds[which];
    struct stat st;

    if (fd < 0) {
        fd = qemu_memfd_create(restricted_fd_property[which], size, false, 0,
                               0, errp);
        rm->fds[which] = fd;
        return fd;
    }
    if (fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "%s=%d is not an open file",
                         restricted_fd_property[which], fd);
        return -1;
    }
    if (st.st_size < size) {
        error_setg(errp, "%s=%d has %" PRIu64 " bytes, %" PRIu64 " needed",
                   restricted_fd_property[which], fd, (uint64_t)st.st_size,
                   size);
        return -1;
    }
    qemu_set_cloexec(fd);
    return files_seal(which, fd, errp) ? fd : -1;
}

static void *files_map(RestrictedMemory *rm, int which, uint64_t size,
                       Error **errp)
{
    int fd = files_open(rm, which, size, errp);
    void *map;

    if (fd < 0) {
        return NULL;
    }
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
               fd, 0);
    if (map == MAP_FAILED) {
        error_setg_errno(errp, errno, "cannot map %s",
                         restricted_fd_property[which]);
        return NULL;
    }
    return map;
}

/* Without a reader nobody needs them, so this file is never created here. */
static bool files_stacks(RestrictedMemory *rm, Error **errp)
{
    const char *problem;
    void *map;

    if (rm->fds[RESTRICTED_FD_STACKS] < 0) {
        return true;
    }
    map = files_map(rm, RESTRICTED_FD_STACKS, RMEM_STACKS_BYTES, errp);
    if (!map) {
        return false;
    }
    problem = rmem_stacks_init(&rm->stacks, map, RMEM_STACKS_BYTES);
    if (problem) {
        error_setg(errp, "stacks-fd: %s", problem);
        return false;
    }
    return true;
}

bool restricted_files_map(RestrictedMemory *rm, const RmemProfile *rules,
                          Error **errp)
{
    uint64_t pages = MEMORY_BACKEND(rm)->size >> RMEM_PAGE_BITS;
    uint64_t ring_bytes = RMEM_RECORDS_OFFSET
                          + RING_DEFAULT_RECORDS * sizeof(RmemRecord);
    void *table, *ring;
    const char *problem;
    struct stat st;

    table = files_map(rm, RESTRICTED_FD_TABLE, pages, errp);
    if (!table) {
        return false;
    }
    if (rm->fds[RESTRICTED_FD_RING] >= 0
        && fstat(rm->fds[RESTRICTED_FD_RING], &st) == 0) {
        ring_bytes = st.st_size;
    }
    ring = files_map(rm, RESTRICTED_FD_RING, ring_bytes, errp);
    if (!ring) {
        return false;
    }
    problem = rmem_init(&rm->core, rules, ring, ring_bytes, table, pages,
                        rm->fds[RESTRICTED_FD_TABLE],
                        rm->events == RESTRICTED_MEMORY_EVENTS_LOSSLESS
                        ? RMEM_RING_LOSSLESS : 0);
    if (problem) {
        error_setg(errp, "ring-fd: %s", problem);
        return false;
    }
    return files_stacks(rm, errp);
}

static bool files_block(RestrictedMemory *rm, MemoryRegion *mr, int which,
                        Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(rm);
    g_autofree char *id = host_memory_backend_get_name(backend);
    g_autofree char *name = g_strdup_printf("%s.%s", id,
        which == RESTRICTED_FD_PRIVATE ? "private" : "shared");
    int fd = files_open(rm, which, backend->size, errp);

    if (fd < 0) {
        return false;
    }
    /* The block owns its descriptor; this one stays open for fallocate(). */
    fd = qemu_dup(fd);
    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot duplicate %s",
                         restricted_fd_property[which]);
        return false;
    }
    if (!memory_region_init_ram_from_fd(mr, OBJECT(rm), name, backend->size,
                                        RAM_SHARED | RAM_NORESERVE, fd, 0,
                                        errp)) {
        close(fd);
        return false;
    }
    vmstate_register_ram_global(mr);
    /* Whatever the migration's mode is when it starts, or becomes. */
    qemu_ram_unset_migratable(mr->ram_block);
    return true;
}

bool restricted_files_ram(RestrictedMemory *rm, Error **errp)
{
    if (!files_block(rm, &rm->private_ram, RESTRICTED_FD_PRIVATE, errp)) {
        return false;
    }
    if (!restricted_is_split(rm)) {
        if (rm->fds[RESTRICTED_FD_SHARED] >= 0) {
            error_setg(errp, "shared-fd has no use with layout=in-place");
            return false;
        }
        return true;
    }
    return files_block(rm, &rm->shared_ram, RESTRICTED_FD_SHARED, errp);
}
