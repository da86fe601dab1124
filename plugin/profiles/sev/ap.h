/*
 * SEV-ES, SEV-SNP: how further CPUs start.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_AP_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_AP_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* See hooks-x86.h. */
void sev_sipi(RestrictedMemory *rm, CPUState *cpu);
/* A fresh launch. */
void sev_ap_reset(SevVcpu *vcpu);

#endif
