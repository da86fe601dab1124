/*
 * Every guest interface that an Arm machine has.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_ARM_H
#define HW_RESTRICTED_MEMORY_PROFILES_ARM_H

#include "hw/restricted-memory/qemu/profile.h"

extern const RestrictedProfile restricted_profile_generic;
extern const RestrictedProfile restricted_profile_cca;

/* All of them; the last one is NULL. */
extern const RestrictedProfile *const restricted_arm_profiles[];

#endif
