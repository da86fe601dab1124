/*
 * Every guest interface that an x86 machine has.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_X86_H
#define HW_RESTRICTED_MEMORY_PROFILES_X86_H

#include "hw/restricted-memory/qemu/profile.h"

extern const RestrictedProfile restricted_profile_generic;
extern const RestrictedProfile restricted_profile_sw_protected;
extern const RestrictedProfile restricted_profile_tdx;
extern const RestrictedProfile restricted_profile_sev;
extern const RestrictedProfile restricted_profile_sev_es;
extern const RestrictedProfile restricted_profile_sev_snp;

/* All of them; the last one is NULL. */
extern const RestrictedProfile *const restricted_x86_profiles[];

#endif
