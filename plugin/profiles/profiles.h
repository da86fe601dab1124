/*
 * Every guest interface there is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_H
#define HW_RESTRICTED_MEMORY_PROFILES_H

#include "hw/restricted-memory/restricted.h"

extern const RestrictedProfile restricted_profile_generic;
extern const RestrictedProfile restricted_profile_sw_protected;
extern const RestrictedProfile restricted_profile_tdx;
extern const RestrictedProfile restricted_profile_sev;
extern const RestrictedProfile restricted_profile_sev_es;
extern const RestrictedProfile restricted_profile_sev_snp;

#endif
