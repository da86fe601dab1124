/*
 * x86: the firmware that -bios loads below 4 GiB.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/datadir.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "hw/i386/x86.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/x86/firmware.h"

#define HIGH_START      0x100000

/* RAM below 4 GiB of a q35 (hw/i386/pc_q35.c), which moves the rest above. */
#define Q35_LOW_RAM_MAX     0xb0000000
#define Q35_LOW_RAM_SPLIT   0x80000000

uint64_t restricted_firmware_size(void)
{
    MemoryRegion *bios = &X86_MACHINE(qdev_get_machine())->bios;

    return memory_region_is_mapped(bios) ? memory_region_size(bios) : 0;
}

uint8_t *restricted_firmware_at(uint64_t gpa, uint64_t size)
{
    MemoryRegion *bios = &X86_MACHINE(qdev_get_machine())->bios;
    uint64_t base = 4 * GiB - restricted_firmware_size();

    return gpa >= base && size <= 4 * GiB - gpa
           ? (uint8_t *)memory_region_get_ram_ptr(bios) + (gpa - base) : NULL;
}

/* QEMU reports a file that cannot be read when it loads it. */
uint8_t *restricted_firmware_read(gsize *size)
{
    MachineState *ms = MACHINE(qdev_get_machine());
    g_autofree char *file = ms->firmware
        ? qemu_find_file(QEMU_FILE_TYPE_BIOS, ms->firmware) : NULL;
    char *image = NULL;

    if (file) {
        g_file_get_contents(file, &image, size, NULL);
    }
    return (uint8_t *)image;
}

/* What is not is for a device: flash too, while it takes commands. */
bool restricted_is_mapped(hwaddr gpa, bool write)
{
    hwaddr offset, length = 1;
    MemoryRegion *mr;

    RCU_READ_LOCK_GUARD();
    mr = address_space_translate(&address_space_memory, gpa, &offset, &length,
                                 write, MEMTXATTRS_UNSPECIFIED);
    return memory_region_is_ram(mr) ? !write || !mr->readonly
                                    : !write && memory_region_is_romd(mr);
}

/*
 * SeaBIOS reports the top of low RAM, where it puts the ACPI tables, as
 * reserved. Linux maps reserved memory as private early and as shared later
 * (arch/x86/mm/ioremap.c), and ACPI data always as private. So tell the kernel
 * that reserved memory in this range is ACPI data; there is no other such
 * range.
 */
void restricted_adopt_acpi_tables(const RestrictedMemory *rm)
{
    MachineState *ms = MACHINE(qdev_get_machine());
    uint64_t low = rm->core.pages << RMEM_PAGE_BITS;
    char *old = ms->kernel_cmdline;

    if (!ms->kernel_filename) {
        return;
    }
    low = low >= Q35_LOW_RAM_MAX ? Q35_LOW_RAM_SPLIT : low;
    ms->kernel_cmdline = g_strdup_printf("%s%smemmap=0x%" PRIx64 "%%0x%x-2+3",
                                         old ? old : "", old ? " " : "",
                                         low - HIGH_START, HIGH_START);
    g_free(old);
}
