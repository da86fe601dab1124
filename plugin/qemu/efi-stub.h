/*
 * When a kernel's EFI stub begins to run.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_EFI_STUB_H
#define HW_RESTRICTED_MEMORY_QEMU_EFI_STUB_H

#include "hw/restricted-memory/qemu/backend.h"

/* As in RestrictedArch. */
void restricted_stub_machine_done(RestrictedMemory *rm);
void restricted_stub_reset(RestrictedMemory *rm);
/* The same; @may_be_stub: the CPU is in a mode in which a stub can run. */
void restricted_stub_code(RestrictedMemory *rm, bool may_be_stub,
                          const uint8_t *page);

#endif
