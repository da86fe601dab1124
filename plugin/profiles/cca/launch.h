/*
 * CCA: the launch of a realm.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CCA_LAUNCH_H
#define HW_RESTRICTED_MEMORY_PROFILES_CCA_LAUNCH_H

#include "hw/restricted-memory/profiles/cca/guest.h"

/* measure.c: after ROMs are loaded, before the first instruction. */
void cca_measure_launch(CcaGuest *cca);
/* Call this before the RIM is read. BQL. */
void cca_measure(CcaGuest *cca);
/* The guest is another one, whose RIM is known. */
void cca_forget_image(CcaGuest *cca);

/* token.c */
void cca_forget_tokens(CcaGuest *cca);

/* vmstate.c: call this when the realm's memory is allocated. */
void cca_vmstate_init(CcaGuest *cca);
/* RestrictedProfile.unfinished */
const char *cca_unfinished(RestrictedMemory *rm);

#endif
