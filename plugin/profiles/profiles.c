/*
 * Find a guest interface by the name its rules have.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles.h"

static const RestrictedProfile *const profiles[] = {
    &restricted_profile_generic,
    &restricted_profile_sw_protected,
    &restricted_profile_tdx,
    &restricted_profile_sev,
    &restricted_profile_sev_es,
    &restricted_profile_sev_snp,
};

const RestrictedProfile *restricted_profile_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(profiles); i++) {
        if (!strcmp(profiles[i]->name, name)) {
            return profiles[i];
        }
    }
    return NULL;
}
