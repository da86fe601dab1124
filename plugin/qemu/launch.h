/*
 * The launch: what is in memory before the guest's own code runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_LAUNCH_H
#define HW_RESTRICTED_MEMORY_QEMU_LAUNCH_H

#include "hw/restricted-memory/qemu/backend.h"

void restricted_launch_machine_done(RestrictedMemory *rm);
/* The pages are part of the launch image: private, with storage. */
void restricted_load(RestrictedMemory *rm, const RestrictedPages *pages);
/* Loading ends: from now on the loader is a device like any other. */
void restricted_seal(RestrictedMemory *rm);

#endif
