/*
 * Guest RAM in one piece, for whoever debugs a debuggable VM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The content of a page is in one of two files, or nowhere. Debuggers such as
 * drgn ask for the host address of a guest address and then read this process's
 * memory from there on. So both files are mapped into one range, page by page,
 * and mapped again when pages change their state. Nobody else uses that range.
 *
 * A page without content is mapped from no file: to read a hole of a file would
 * give it storage. An error page cannot be read at all.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "system/cpus.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/stop.h"

static uint8_t *view;   /* atomic; never given up */
static bool lost;       /* atomic: too many pieces, reading fails from now on */

static bool map_run(const RestrictedMemory *rm, RmemRun run)
{
    bool shared = restricted_is_split(rm) && run.state == RMEM_SHARED;
    int fd = rm->fds[shared ? RESTRICTED_FD_SHARED : RESTRICTED_FD_PRIVATE];
    uint64_t offset = run.first << RMEM_PAGE_BITS;
    int prot = PROT_READ, flags = MAP_SHARED;

    if (run.state == RMEM_PENDING || run.state == RMEM_POISONED) {
        prot = run.state == RMEM_POISONED ? PROT_NONE : PROT_READ;
        flags = MAP_PRIVATE | MAP_ANONYMOUS;
        fd = -1;
    }
    return mmap(qatomic_read(&view) + offset, run.count << RMEM_PAGE_BITS, prot,
                flags | MAP_FIXED | MAP_NORESERVE, fd,
                fd < 0 ? 0 : offset) != MAP_FAILED;
}

/*
 * The host allows a process so many pieces. A debugger has the address, so what
 * could not be mapped must not be read as something else.
 */
static void give_up(const RestrictedMemory *rm)
{
    qatomic_set(&lost, true);
    mmap(qatomic_read(&view), rm->core.pages << RMEM_PAGE_BITS, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}

void restricted_debug_view_moved(RestrictedMemory *rm,
                                 const RestrictedPages *pages)
{
    uint64_t page = pages->first, end = page + pages->count;

    if (likely(!qatomic_read(&view))) {
        return;
    }
    while (page < end && !qatomic_read(&lost)) {
        RmemRun run = rmem_run_at(&rm->core, page, end - page);

        if (!map_run(rm, run)) {
            give_up(rm);
        }
        page += run.count;
    }
}

/* No vCPU runs, so no state changes before all pages are mapped. */
static bool make_view(RestrictedMemory *rm, Error **errp)
{
    void *range = mmap(NULL, rm->core.pages << RMEM_PAGE_BITS, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (range == MAP_FAILED) {
        error_setg_errno(errp, errno, "guest memory cannot be mapped for a "
                         "debugger");
        return false;
    }
    qatomic_set(&view, range);
    restricted_debug_view_moved(rm, &(RestrictedPages){ 0, rm->core.pages });
    return true;
}

const uint8_t *restricted_debug_view(RestrictedMemory *rm, Error **errp)
{
    bool made = view;

    if (!made) {
        pause_all_vcpus();
        made = make_view(rm, errp);
        restricted_resume_vcpus();
    }
    if (!made) {
        return NULL;
    }
    if (qatomic_read(&lost)) {
        error_setg(errp, "guest memory cannot be mapped for a debugger: private "
                   "and shared pages alternate too often for the host; raise "
                   "vm.max_map_count and start the VM again");
        return NULL;
    }
    return view;
}
