/*
 * Guest RAM in one piece, for whoever debugs a debuggable VM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_DEBUG_VIEW_H
#define HW_RESTRICTED_MEMORY_QEMU_DEBUG_VIEW_H

#include "hw/restricted-memory/qemu/backend.h"

/*
 * Guest RAM by offset in the backend, each page from the file that holds it;
 * read only, made when it is first asked for. The caller journals who is given
 * it (dump.h). NULL and @errp if the host cannot map it. BQL, and the caller has
 * not paused the vCPUs.
 */
const uint8_t *restricted_debug_view(RestrictedMemory *rm, Error **errp);

/* @pages are in other states now. From any thread. */
void restricted_debug_view_moved(RestrictedMemory *rm,
                                 const RestrictedPages *pages);

#endif
