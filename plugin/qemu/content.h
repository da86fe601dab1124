/*
 * The content of guest RAM, for the plugin itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_CONTENT_H
#define HW_RESTRICTED_MEMORY_QEMU_CONTENT_H

#include "hw/restricted-memory/qemu/backend.h"

/* The content of @page, which is in @state. */
static inline uint8_t *restricted_content(RestrictedMemory *rm, uint64_t page,
                                          RmemState state)
{
    return (uint8_t *)memory_region_get_ram_ptr(restricted_ram_of(rm, state))
           + (page << RMEM_PAGE_BITS);
}

/* The content of [gpa, gpa + size); NULL unless all pages are in @state. */
uint8_t *restricted_ram(RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                        RmemState state);

/*
 * Where the profile scrambles: fill @page with noise, if it was not reached
 * since it changed sides.
 */
void restricted_do_settle(RestrictedMemory *rm, uint64_t page);

/* Call this before the content of @page is reached, on its present side. */
static inline void restricted_settle(RestrictedMemory *rm, uint64_t page)
{
    if (unlikely(rm->core.profile->scrambles)
        && rmem_any_stale(&rm->core, page, 1)) {
        restricted_do_settle(rm, page);
    }
}

#endif
