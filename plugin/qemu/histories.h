/*
 * The histories of the memory files: their content at each checkpoint.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_HISTORIES_H
#define HW_RESTRICTED_MEMORY_QEMU_HISTORIES_H

#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/backend.h"

/* Add a point to each file's history. False: no memory, and there is none. */
bool restricted_histories_add(RestrictedMemory *rm);
/*
 * Take files and table back to a point, and drop the later ones. @pages is how
 * many pages of the files were taken back. False: the host has no storage, and
 * memory is lost.
 */
bool restricted_histories_back(RestrictedMemory *rm, unsigned point,
                               const RmemSaved *saved, uint64_t *pages,
                               Error **errp);
/* False: no memory, and the point stays. */
bool restricted_histories_drop(RestrictedMemory *rm, unsigned point);
/* There are no checkpoints any more: nothing costs anything from now on. */
void restricted_histories_end(RestrictedMemory *rm);

#endif
