/*
 * TDVF: the sections that firmware describes, and the HOBs that describe memory
 * to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_TDVF_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_TDVF_H

#include "hw/restricted-memory/profiles/tdx/guest.h"

/* TDVF, "TDVF descriptor": where a part of the firmware goes */
typedef enum { TDVF_BFV, TDVF_CFV, TDVF_TD_HOB, TDVF_TEMP_MEM } TdvfType;

typedef struct TdvfSection {
    uint32_t offset, raw_size;
    uint64_t gpa, size;
    uint32_t type, attributes;
} TdvfSection;

#define TDVF_MR_EXTEND 1

/* TdvfSection of the firmware @image; NULL with or without an error. */
GArray *tdvf_parse(const uint8_t *image, size_t size, Error **errp);
/* Write the list of HOBs into @hob, which is at @gpa of the guest. */
bool tdvf_build_hob(TdxGuest *tdx, uint8_t *hob, uint64_t gpa, uint64_t size);

#endif
