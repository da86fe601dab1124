/*
 * SEV-SNP: the launch digest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_MEASURE_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_MEASURE_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* FW, chapter 8.17.2 "PAGE_INFO" */
typedef enum SevPageType { SEV_PAGE_NORMAL = 1, SEV_PAGE_VMSA, SEV_PAGE_ZERO,
                           SEV_PAGE_UNMEASURED, SEV_PAGE_SECRETS,
                           SEV_PAGE_CPUID } SevPageType;
void sev_measure(SevGuest *sev, SevPageType type, uint64_t gpa,
                 const uint8_t *content);
/* The vCPUs that the machine has at its start, after all pages. */
void sev_measure_cpus(SevGuest *sev, unsigned cpus);

#endif
