/*
 * SEV: the C-bit, and conversions.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_MEMORY_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_MEMORY_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* As in RestrictedProfile. */
uint64_t sev_view_bit(const RestrictedMemory *rm);
RestrictedAlias sev_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill);
void sev_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state);
bool sev_is_shared_untold(RestrictedMemory *rm, hwaddr gpa);

/*
 * Convert the RAM in [gpa, gpa + count pages); other addresses need nothing.
 * False: a page refuses, or the host is full. No other vCPU runs. @flags are
 * those of the records.
 */
bool sev_convert(SevGuest *sev, uint64_t gpa, uint64_t count, RmemEvent event,
                 uint64_t rip, uint8_t flags);

#endif
