/*
 * The guest interfaces of an x86 machine: profile= chooses one by its name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/x86.h"

const RestrictedProfile *const restricted_x86_profiles[] = {
    &restricted_profile_generic,
    &restricted_profile_sw_protected,
    &restricted_profile_tdx,
    &restricted_profile_sev,
    &restricted_profile_sev_es,
    &restricted_profile_sev_snp,
    NULL
};
