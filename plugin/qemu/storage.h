/*
 * Storage of pages in the files behind the backend.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_STORAGE_H
#define HW_RESTRICTED_MEMORY_QEMU_STORAGE_H

#include "hw/restricted-memory/qemu/backend.h"

/* Give pages of file @which storage; false, and errno: the host has none. */
bool restricted_allocate(RestrictedMemory *rm, int which,
                         const RestrictedPages *pages);
/*
 * Take the storage of pages of file @which. The code that was translated from
 * them stays. Ends QEMU if the host refuses: there would be content where the
 * page states say that there is none.
 */
void restricted_punch(RestrictedMemory *rm, int which,
                      const RestrictedPages *pages);

#endif
