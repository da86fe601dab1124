/*
 * SEV-SNP: what a kernel is told that was booted by other firmware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_BLOB_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_BLOB_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/*
 * Give a Linux kernel its secrets and its CPUID page. ESI of @cpu points to its
 * boot parameters; other guests have none. No other vCPU runs.
 */
void sev_give_blob(SevGuest *sev, CPUState *cpu);

#endif
