/*
 * x86: the firmware that -bios loads below 4 GiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_FIRMWARE_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_FIRMWARE_H

#include "hw/restricted-memory/qemu/backend.h"

uint64_t restricted_firmware_size(void);
/* Its content at @gpa; NULL unless all of @size is firmware. */
uint8_t *restricted_firmware_at(uint64_t gpa, uint64_t size);
/* Read the file, before the machine is built; NULL if it cannot be read. */
uint8_t *restricted_firmware_read(gsize *size);
/* Is it RAM or ROM, of whatever kind, that a host maps for its guest? */
bool restricted_is_mapped(hwaddr gpa, bool write);
/* Make the kernel treat the RAM that SeaBIOS reserves as ACPI data. */
void restricted_adopt_acpi_tables(const RestrictedMemory *rm);

#endif
