/*
 * The guest interfaces of an Arm machine: profile= chooses one by its name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/arm.h"

const RestrictedProfile *const restricted_arm_profiles[] = {
    &restricted_profile_generic,
    &restricted_profile_cca,
    NULL
};
