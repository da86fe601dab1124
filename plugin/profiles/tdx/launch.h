/*
 * TDX: the launch of a TD.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_LAUNCH_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_LAUNCH_H

#include "hw/restricted-memory/profiles/tdx/guest.h"

/* Call these before the machine is built, and when it is complete. */
bool tdx_launch_prepare(TdxGuest *tdx, Error **errp);
bool tdx_launch_init(TdxGuest *tdx, Error **errp);
void tdx_launch(RestrictedMemory *rm);
/* The first TDCALL, with firmware that does not know TDX. */
void tdx_arm(TdxGuest *tdx);

/* vmstate.c: call this when the TD's memory is allocated. */
void tdx_vmstate_init(TdxGuest *tdx);
/* RestrictedProfile.unfinished */
const char *tdx_unfinished(RestrictedMemory *rm);

#endif
