/*
 * A guest that moves to another QEMU, which takes over the same files.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_HANDOVER_H
#define HW_RESTRICTED_MEMORY_QEMU_HANDOVER_H

#include "hw/restricted-memory/qemu/backend.h"

bool restricted_handover_init(RestrictedMemory *rm, Error **errp);
/* Refuse an incoming guest unless its memory is already in place. */
bool restricted_handover_check(RestrictedMemory *rm, Error **errp);
/* Does the migration that was asked for leave memory where it is? */
bool restricted_handover_is_on(void);
/* Is the guest still in another QEMU? Then memory is not ours to touch. */
bool restricted_incoming(void);
/* May this process change page states? BQL. */
bool restricted_own(RestrictedMemory *rm, Error **errp);
/* The same, and not while they are about to go: by a shutdown or a reset. */
bool restricted_may_change(RestrictedMemory *rm, Error **errp);

/* Where our section goes, or comes from. */
typedef enum RestrictedHandoverTo {
    RESTRICTED_TO_ANOTHER,      /* another QEMU with the same files, by migration */
    RESTRICTED_TO_ITSELF,       /* the same process; page states go back alone */
    RESTRICTED_TO_A_COPY,       /* a QEMU with copies of the files */
} RestrictedHandoverTo;

/* For what is saved or loaded from now on. BQL. */
void restricted_handover_goes(RestrictedHandoverTo to);

#endif
