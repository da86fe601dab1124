/*
 * TDX: MRTD, as the launch computes it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_MEASURE_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_MEASURE_H

#include "hw/restricted-memory/profiles/tdx/guest.h"

void tdx_measure_reset(TdxGuest *tdx);
/* @content NULL: the page is added, its content is not measured. */
void tdx_measure_page(GChecksum *mrtd, uint64_t gpa, const uint8_t *content);
void tdx_measure_finish(TdxGuest *tdx, GChecksum *mrtd);

#endif
