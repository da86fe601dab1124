/*
 * CCA: the address bit of a realm, and memory that a call touches.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CCA_MEMORY_H
#define HW_RESTRICTED_MEMORY_PROFILES_CCA_MEMORY_H

#include "hw/restricted-memory/profiles/cca/call.h"

/* As in RestrictedProfile. */
uint64_t cca_device_bit(const RestrictedMemory *rm);
RestrictedAlias cca_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill);
void cca_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state);
hwaddr cca_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias);

/*
 * Touch memory for a call, within a page. False: the address is not protected,
 * or its RIPAS is not RAM.
 */
bool cca_read(CcaCall *call, uint64_t ipa, void *buf, size_t size);
bool cca_write(CcaCall *call, uint64_t ipa, const void *buf, size_t size);

#endif
