/*
 * TDX: the S bit, the secure EPT, and memory that a leaf touches.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_MEMORY_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_MEMORY_H

#include "hw/restricted-memory/profiles/tdx/call.h"

/* Levels of TDG.MEM.PAGE.ACCEPT */
enum { TDX_4K, TDX_2M, TDX_1G };
#define TDX_LEVEL_BITS(level) (12 + 9 * (level))

/* As in RestrictedProfile. */
uint64_t tdx_view_bit(const RestrictedMemory *rm);
RestrictedAlias tdx_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill);
void tdx_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state);
hwaddr tdx_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias);

typedef enum { TDX_PRIVATE_ONLY, TDX_PRIVATE_OR_SHARED } TdxReach;
/*
 * Touch guest memory for a leaf, within a page. False: no such memory. Does
 * not return if the page is not there for the guest.
 */
bool tdx_read(TdxCall *call, uint64_t gpa, void *buf, size_t size,
              TdxReach reach);
bool tdx_write(TdxCall *call, uint64_t gpa, const void *buf, size_t size,
               TdxReach reach);

/* How a page is mapped. */
typedef struct TdxMapping {
    int level;
    bool pending;
} TdxMapping;
/* Does not return if the host would have to map the page first. */
TdxMapping tdx_mapping(TdxCall *call, uint64_t gpa);

#endif
