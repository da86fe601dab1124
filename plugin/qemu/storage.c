/*
 * Storage of pages in the files behind the backend.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/files.h"
#include "hw/restricted-memory/qemu/storage.h"

/* A signal, even SIGSTOP, ends fallocate() before it has done anything. */
static int change_storage(RestrictedMemory *rm, int which, int mode,
                          const RestrictedPages *pages)
{
    restricted_mark_dirty(rm, which == RESTRICTED_FD_SHARED ? &rm->shared_ram
                                                            : &rm->private_ram,
                          pages);
    return RETRY_ON_EINTR(fallocate(rm->fds[which], mode,
                                    pages->first << RMEM_PAGE_BITS,
                                    pages->count << RMEM_PAGE_BITS));
}

bool restricted_allocate(RestrictedMemory *rm, int which,
                         const RestrictedPages *pages)
{
    return change_storage(rm, which, 0, pages) == 0;
}

void restricted_punch(RestrictedMemory *rm, int which,
                      const RestrictedPages *pages)
{
    if (change_storage(rm, which, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       pages) < 0) {
        error_report("the host does not take back pages of %s: %s; the guest "
                     "cannot go on", restricted_fd_property[which],
                     strerror(errno));
        exit(EXIT_FAILURE);
    }
}
