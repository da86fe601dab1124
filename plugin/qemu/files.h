/*
 * The files behind the backend.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_FILES_H
#define HW_RESTRICTED_MEMORY_QEMU_FILES_H

#include "hw/restricted-memory/qemu/backend.h"

extern const char *const restricted_fd_property[RESTRICTED_FDS];
/* Make the RAM blocks, of one file or of two. */
bool restricted_files_ram(RestrictedMemory *rm, Error **errp);
/* Map page-state table and event ring. */
bool restricted_files_map(RestrictedMemory *rm, const RmemProfile *rules,
                          Error **errp);

#endif
