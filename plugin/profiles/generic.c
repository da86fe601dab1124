/*
 * A guest that knows nothing of confidential computing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It cannot accept or convert: a first touch accepts, and the host converts, by
 * QMP or by policy.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/profile.h"

extern const RestrictedProfile restricted_profile_generic;

const RestrictedProfile restricted_profile_generic = {
    .name = "generic",
};
