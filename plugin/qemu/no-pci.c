/*
 * A target without PCI: see pci.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/pci.h"

void restricted_pci_init(void)
{
}

char *restricted_pci_name(const RestrictedActor *actor)
{
    g_assert_not_reached();
}
