/*
 * Monitor commands that restricted memory refuses or answers itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_COMMANDS_H
#define HW_RESTRICTED_MEMORY_QEMU_COMMANDS_H

#include "qapi/qmp-registry.h"
#include "hw/restricted-memory/qemu/backend.h"

typedef void RestrictedHmp(Monitor *mon, const QDict *args);

/* Take the place of a command; return what was there, NULL if none was. */
QmpCommandFunc *restricted_commands_qmp(const char *name, QmpCommandFunc *ours);
RestrictedHmp *restricted_commands_hmp(const char *name, bool info,
                                       RestrictedHmp *ours);

void restricted_commands_machine_done(RestrictedMemory *rm);

#endif
