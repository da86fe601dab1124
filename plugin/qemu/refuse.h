/*
 * What cannot work with restricted memory is refused, with a reason.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_REFUSE_H
#define HW_RESTRICTED_MEMORY_QEMU_REFUSE_H

#include "hw/restricted-memory/qemu/backend.h"

/* What the host may not have as a whole. */
typedef enum RestrictedWhole {
    RESTRICTED_ALL_MEMORY,
    RESTRICTED_CPU_STATE,
} RestrictedWhole;

/*
 * Journal that the host asked for @whole, by @what ("savevm"; NULL: unknown),
 * and set @errp.
 */
void restricted_refuse(RestrictedMemory *rm, RestrictedWhole whole,
                       const char *what, Error **errp);

/* Set @errp and return true if any network back end is a vhost process. */
bool restricted_refuse_vhost(Error **errp);

void restricted_refuse_init(void);
bool restricted_refuse_machine(RestrictedMemory *rm, Error **errp);

#endif
