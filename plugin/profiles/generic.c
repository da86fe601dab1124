/*
 * A guest that knows nothing of confidential computing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It has no way to accept or convert: a first touch accepts, the host
 * converts, by QMP or by policy.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles.h"

const RestrictedProfile restricted_profile_generic = {
    .name = "generic",
};
