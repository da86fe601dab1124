/*
 * Changing page states, and the content that goes with them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_CONVERT_H
#define HW_RESTRICTED_MEMORY_QEMU_CONVERT_H

#include "hw/restricted-memory/qemu/backend.h"

typedef struct RestrictedChange {
    const RestrictedPages *ranges;
    size_t n;
    RmemEvent event;
    bool preserve;              /* keep the content */
    RmemActor actor;
    uint64_t pc;
    uint8_t flags;              /* RMEM_F_*, of the records */
    uint64_t changed;           /* out: pages */
    RmemRefusal refusal;        /* out */
    uint64_t bad;               /* out: page that refused */
} RestrictedChange;

/*
 * Change the states of all ranges, or of none (false and @errp). No guest CPU
 * may run meanwhile; each sees the result before its next instruction.
 */
bool restricted_change(RestrictedMemory *rm, RestrictedChange *change,
                       Error **errp);
/*
 * Share one page while guest CPUs run. In the split layout its content is lost,
 * so no CPU may be using it as private.
 */
bool restricted_share_page(RestrictedMemory *rm, uint64_t page,
                           RmemState *old);

#endif
