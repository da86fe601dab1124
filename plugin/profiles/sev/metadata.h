/*
 * SEV: the metadata of firmware, and the pages that it is given.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_METADATA_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_METADATA_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* The type of a section in the firmware's metadata. */
typedef enum SevSectionType {
    SEV_SEC_MEM = 1, SEV_SECRETS = 2, SEV_CPUID = 3, SEV_SVSM_CAA = 4,
    SEV_KERNEL_HASHES = 0x10,
} SevSectionType;

typedef struct SevSection {
    uint32_t gpa, size, type;
} SevSection;

bool sev_metadata_parse(SevGuest *sev, const uint8_t *image, size_t size,
                        Error **errp);
void sev_cpuid_page(uint8_t *page);
void sev_secrets_page(const SevGuest *sev, uint8_t *page);

/* See hooks-x86.h. */
struct SevKernelLoaderContext;
bool sev_hashes(RestrictedMemory *rm);
void sev_hash(RestrictedMemory *rm,
              const struct SevKernelLoaderContext *context);

#endif
