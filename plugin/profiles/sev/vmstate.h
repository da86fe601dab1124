/*
 * SEV: state of a guest beside its memory, for checkpoints and handovers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_VMSTATE_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_VMSTATE_H

#include "hw/restricted-memory/profiles/sev/guest.h"

void sev_vmstate_init(SevGuest *sev);
/* RestrictedProfile.unfinished */
const char *sev_unfinished(RestrictedMemory *rm);

#endif
