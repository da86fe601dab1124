/*
 * SEV: the launch of a guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_LAUNCH_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_LAUNCH_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* Call these before the machine is built, and when it is complete. */
bool sev_launch_prepare(SevGuest *sev, Error **errp);
bool sev_launch_init(SevGuest *sev, Error **errp);
void sev_launch(RestrictedMemory *rm);
/* The first RDMSR of SEV_STATUS; no other vCPU runs. */
void sev_arm(SevGuest *sev, CPUState *cpu);

#endif
