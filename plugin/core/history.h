/*
 * The content of one memory file at several points in time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Concepts:
 *  - A *point* is a moment to which the file can go back. Points are in the
 *    order of time; rmem_history_back() drops the later ones.
 *  - The *image* is a copy of the file as it was at the newest point, or where
 *    the file was taken back to since.
 *  - Each point but the first has a *layer*: what the pages that changed since
 *    the point before it held there. So a point costs what has changed, and so
 *    does going back. Only the first one copies the file.
 *  - A page without storage (a hole) is remembered as one, and becomes one again.
 *  - *dirty* is a bitmap of the pages that may differ from the image. Whoever
 *    calls finds them; a page too many costs its copy, a page too few is lost.
 *
 * The callers exclude each other and whoever writes to the file. No QEMU header
 * is included.
 */

#ifndef RMEM_HISTORY_H
#define RMEM_HISTORY_H

#include "rmem.h"

typedef struct RmemHistory RmemHistory;

#define RMEM_BITMAP_WORDS(pages) (((pages) + 63) / 64)

static inline void rmem_bit_set(uint64_t *bitmap, uint64_t page)
{
    bitmap[page / 64] |= UINT64_C(1) << page % 64;
}

static inline bool rmem_bit(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / 64] >> page % 64 & 1;
}

/* The file's descriptor and mapping, and its length in pages. NULL: no memory. */
RmemHistory *rmem_history_new(int fd, uint8_t *map, uint64_t pages);
void rmem_history_free(RmemHistory *history);

/* How many points there are. */
unsigned rmem_history_points(const RmemHistory *history);

/*
 * Make a point of the file as it is now. @dirty is not read for the first one.
 * False: no memory, and there is no new point.
 */
bool rmem_history_add(RmemHistory *history, const uint64_t *dirty);

typedef void RmemRestoredFn(void *opaque, uint64_t first, uint64_t count);

/*
 * Take the file back to @point, and drop the points after it. @dirty has the
 * pages that were taken back when this returns. @fn is called for each run of
 * them. False with errno: the host does not take back or give storage, and the
 * file is neither as it was nor as it should be.
 */
bool rmem_history_back(RmemHistory *history, unsigned point, uint64_t *dirty,
                       RmemRestoredFn *fn, void *opaque);

/*
 * Forget @point; the file stays as it is. In two steps, so that several
 * histories forget it together: the first may have no memory (false), and has no
 * effect without the second.
 */
bool rmem_history_prepare_drop(RmemHistory *history, unsigned point);
void rmem_history_drop(RmemHistory *history, unsigned point);

/*
 * The page-state table, the counters and the phase at a point. Both run while
 * nothing else changes them.
 */
typedef struct RmemSaved RmemSaved;

RmemSaved *rmem_save(const Rmem *rm);       /* NULL: no memory */
void rmem_saved_free(RmemSaved *saved);
/* The ring goes on, and so does the generation: others compare it. */
void rmem_restore(Rmem *rm, const RmemSaved *saved);

#endif
