/*
 * SEV-SNP: what a kernel is told that was booted by other firmware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel finds its secrets by a "confidential computing blob" in the list of
 * setup data (Linux, arch/x86/boot/compressed/sev.c). Its boot parameters are
 * memory of the guest, so they may say anything.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "hw/i386/e820_memory_layout.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/profiles/sev/blob.h"
#include "hw/restricted-memory/profiles/sev/metadata.h"

/* Linux, Documentation/arch/x86/boot.rst */
#define BOOT_E820_COUNT     0x1e8
#define BOOT_MAGIC          0x202
#define BOOT_INITRD         0x218
#define BOOT_SETUP_DATA     0x250
#define BOOT_E820           0x2d0
#define BOOT_E820_ENTRY     20
#define BOOT_E820_MAX       128
#define SETUP_CC_BLOB       7
#define CC_BLOB_MAGIC       0x45444d41

#define BLOB_SETUP      0
#define BLOB_TABLE      0x100
#define BLOB_CPUID      0x1000
#define BLOB_SECRETS    0x2000
#define BLOB_SIZE       0x3000

static void set_e820(uint8_t *entry, uint64_t start, uint64_t end,
                     uint32_t type)
{
    stq_le_p(entry, start);
    stq_le_p(entry + 8, end - start);
    stl_le_p(entry + 16, type);
}

static uint8_t *new_e820(uint8_t *boot)
{
    return boot + BOOT_E820 + BOOT_E820_ENTRY * boot[BOOT_E820_COUNT]++;
}

/* Is this memory below 4 GiB? The guest has written the entry. */
static bool is_low_ram(const uint8_t *entry)
{
    uint64_t start = ldq_le_p(entry), size = ldq_le_p(entry + 8);

    return ldl_le_p(entry + 16) == E820_RAM && start < 4 * GiB
           && size <= 4 * GiB - start;
}

/* The kernel's highest memory below 4 GiB, or NULL. */
static uint8_t *highest_e820(uint8_t *boot)
{
    uint8_t *best = NULL;

    for (unsigned i = 0; i < MIN(boot[BOOT_E820_COUNT], BOOT_E820_MAX); i++) {
        uint8_t *entry = boot + BOOT_E820 + BOOT_E820_ENTRY * i;

        if (is_low_ram(entry)
            && (!best || ldq_le_p(entry) > ldq_le_p(best))) {
            best = entry;
        }
    }
    return best;
}

/* A piece of the kernel's memory, in the middle or at the end of an entry. */
typedef struct Cut {
    uint8_t *entry;
    uint64_t gpa;
} Cut;

/*
 * Where BLOB_SIZE can be taken out of the kernel's memory: below its initrd, or
 * at the end. Firmware that does not know SEV does not use that memory any more.
 */
static bool find_cut(uint8_t *boot, Cut *cut)
{
    uint64_t initrd = ldl_le_p(boot + BOOT_INITRD) & ~(RMEM_PAGE_SIZE - 1);
    uint64_t start, end, top;

    cut->entry = highest_e820(boot);
    if (!cut->entry || boot[BOOT_E820_COUNT] + 2 > BOOT_E820_MAX) {
        return false;
    }
    start = ldq_le_p(cut->entry);
    end = start + ldq_le_p(cut->entry + 8);
    top = (initrd > start && initrd < end ? initrd : end)
          & ~(RMEM_PAGE_SIZE - 1);
    cut->gpa = top - BLOB_SIZE;
    return top >= start && top - start >= BLOB_SIZE;
}

static void apply_cut(uint8_t *boot, const Cut *cut)
{
    uint64_t start = ldq_le_p(cut->entry);
    uint64_t end = start + ldq_le_p(cut->entry + 8);

    set_e820(cut->entry, start, cut->gpa, E820_RAM);
    /* As ACPI data: Linux maps that as private, early and late. */
    set_e820(new_e820(boot), cut->gpa, cut->gpa + BLOB_SIZE, E820_ACPI);
    if (cut->gpa + BLOB_SIZE < end) {
        set_e820(new_e820(boot), cut->gpa + BLOB_SIZE, end, E820_RAM);
    }
}

/* The memory of the blob; NULL unless it is RAM that the guest has in use. */
static uint8_t *blob_memory(RestrictedMemory *rm, uint64_t gpa)
{
    RestrictedPages pages;

    if (!restricted_pages(rm, gpa, BLOB_SIZE, &pages)) {
        return NULL;
    }
    /* Like all of RAM, the pages are in the launch image. Now they are used. */
    for (uint64_t i = 0; i < pages.count; i++) {
        restricted_cpu_touch(rm, pages.first + i);
    }
    return restricted_ram(rm, gpa, BLOB_SIZE, RMEM_PRIVATE);
}

/* The blob goes to the front of the kernel's list of setup data. */
static void write_blob(SevGuest *sev, uint8_t *boot, uint8_t *blob, uint64_t gpa)
{
    uint8_t *table = blob + BLOB_TABLE;

    memset(blob, 0, BLOB_SIZE);
    memcpy(blob + BLOB_SETUP, boot + BOOT_SETUP_DATA, 8);
    stl_le_p(blob + BLOB_SETUP + 8, SETUP_CC_BLOB);
    stl_le_p(blob + BLOB_SETUP + 12, 4);
    stl_le_p(blob + BLOB_SETUP + 16, gpa + BLOB_TABLE);
    stl_le_p(table, CC_BLOB_MAGIC);
    stw_le_p(table + 4, 1);
    stq_le_p(table + 8, gpa + BLOB_SECRETS);
    stl_le_p(table + 16, RMEM_PAGE_SIZE);
    stq_le_p(table + 24, gpa + BLOB_CPUID);
    stl_le_p(table + 32, RMEM_PAGE_SIZE);
    sev_cpuid_page(blob + BLOB_CPUID);
    sev_secrets_page(sev, blob + BLOB_SECRETS);
    stq_le_p(boot + BOOT_SETUP_DATA, gpa + BLOB_SETUP);
}

void sev_give_blob(SevGuest *sev, CPUState *cpu)
{
    uint64_t params = (uint32_t)cpu_env(cpu)->regs[R_ESI];
    uint8_t *boot = restricted_ram(sev->rm, params, RMEM_PAGE_SIZE,
                                   RMEM_PRIVATE);
    uint8_t *blob;
    Cut cut;

    if (!boot || memcmp(boot + BOOT_MAGIC, "HdrS", 4)) {
        return;
    }
    blob = find_cut(boot, &cut) ? blob_memory(sev->rm, cut.gpa) : NULL;
    if (!blob) {
        warn_report("no room for the guest's secrets: the kernel will not "
                    "notice that it is an SEV-SNP guest");
        return;
    }
    apply_cut(boot, &cut);
    write_blob(sev, boot, blob, cut.gpa);
}
