/*
 * PCI devices: a guarded address space for each, under its name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_PCI_H
#define HW_RESTRICTED_MEMORY_QEMU_PCI_H

#include "hw/restricted-memory/qemu/actors.h"

/* From now on each device gets one when it is realized. */
void restricted_pci_init(void);

/* The name of the device at the actor's bus and devfn. */
char *restricted_pci_name(const RestrictedActor *actor);

#endif
