/*
 * Logs and traces that show what the host may not see.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_LOGS_H
#define HW_RESTRICTED_MEMORY_QEMU_LOGS_H

#include "hw/restricted-memory/qemu/backend.h"

/* Set @errp if the command line asks for such a log. */
bool restricted_logs_check(RestrictedMemory *rm, Error **errp);
void restricted_logs_machine_done(RestrictedMemory *rm);

#endif
