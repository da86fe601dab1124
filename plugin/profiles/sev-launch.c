/*
 * SEV: what a guest begins with.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With firmware that has SEV metadata (OVMF, by -bios), its sections are the
 * launch image, and the C-bit means something from the first instruction on.
 * Other firmware (SeaBIOS) knows nothing of SEV: all of RAM is in the launch
 * image, and the launch lasts until the kernel reads SEV_STATUS, which it
 * does with paging off. It finds its secrets by a "confidential computing
 * blob" in the list of setup data (Linux, arch/x86/boot/compressed/sev.c).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "hw/boards.h"
#include "hw/i386/pc.h"
#include "hw/i386/x86.h"
#include "hw/i386/e820_memory_layout.h"
#include "sev.h"

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

static uint8_t *load(SevGuest *sev, uint64_t gpa, uint64_t size)
{
    RestrictedPages pages;

    restricted_pages(sev->rm, gpa, size, &pages);
    restricted_load(sev->rm, &pages);
    return (uint8_t *)memory_region_get_ram_ptr(&sev->rm->private_ram)
           + (pages.first << RMEM_PAGE_BITS);
}

static SevPageType page_type(uint32_t section)
{
    switch (section) {
    case SEV_SECRETS:
        return SEV_PAGE_SECRETS;
    case SEV_CPUID:
        return SEV_PAGE_CPUID;
    case SEV_KERNEL_HASHES:
        return SEV_PAGE_NORMAL;
    default:
        return SEV_PAGE_ZERO;
    }
}

static void launch_section(SevGuest *sev, const SevSection *section)
{
    uint8_t *content = load(sev, section->gpa, section->size);
    SevPageType type = page_type(section->type);

    if (section->type == SEV_SECRETS) {
        sev_secrets_page(sev, content);
    } else if (section->type == SEV_CPUID) {
        sev_cpuid_page(content);
    } else if (section->type == SEV_KERNEL_HASHES) {
        memcpy(content + (sev->hashes_gpa & (RMEM_PAGE_SIZE - 1)),
               sev->hashes, MIN(sizeof(sev->hashes), sev->hashes_size));
    }
    for (uint64_t at = 0; at < section->size; at += RMEM_PAGE_SIZE) {
        sev_measure(sev, type, section->gpa + at, content + at);
    }
}

static void launch_firmware(SevGuest *sev)
{
    uint64_t size = restricted_firmware_size(), base = 4 * GiB - size;
    const uint8_t *image = restricted_firmware_at(base, size);

    for (uint64_t at = 0; at < size; at += RMEM_PAGE_SIZE) {
        sev_measure(sev, SEV_PAGE_NORMAL, base + at, image + at);
    }
}

/* Without an RMP there is nothing to place but the hashes. */
static void launch_plain(SevGuest *sev)
{
    uint64_t page = sev->hashes_gpa & ~(RMEM_PAGE_SIZE - 1);

    if (sev_hashes(sev->rm)) {
        memcpy(load(sev, page, RMEM_PAGE_SIZE) + (sev->hashes_gpa - page),
               sev->hashes, MIN(sizeof(sev->hashes), sev->hashes_size));
    }
}

static void launch_metadata(SevGuest *sev)
{
    launch_firmware(sev);
    if (sev->level == SEV_SNP) {
        for (unsigned i = 0; i < sev->sections->len; i++) {
            launch_section(sev, &g_array_index(sev->sections, SevSection, i));
        }
    } else {
        launch_plain(sev);
    }
    qatomic_set(&sev->armed, true);
    restricted_seal(sev->rm);
}

void sev_launch(RestrictedMemory *rm)
{
    SevGuest *sev = sev_guest();
    unsigned cpus = MACHINE(qdev_get_machine())->smp.max_cpus;

    for (unsigned i = 0; i < cpus; i++) {
        sev_ap_reset(&sev->vcpus[i]);
    }
    memset(sev->split, 0, DIV_ROUND_UP(rm->core.pages, SEV_PAGES_2M));
    g_hash_table_remove_all(sev->vmsas);
    qatomic_set(&sev->jump_table, 0);
    qatomic_set(&sev->armed, false);
    memset(sev->measurement, 0, sizeof(sev->measurement));
    qemu_guest_getrandom_nofail(&rm->noise, sizeof(rm->noise));
    qemu_guest_getrandom_nofail(sev->vmpck, sizeof(sev->vmpck));
    qemu_guest_getrandom_nofail(sev->report_id, sizeof(sev->report_id));
    if (sev->metadata) {
        launch_metadata(sev);
    } else {
        launch_firmware(sev);
        WITH_QEMU_LOCK_GUARD(&rm->lock) {
            rmem_set_launch(&rm->core, 0, rm->core.pages);
        }
    }
    sev_request_launch(sev);
}

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

/* The kernel's highest memory below 4 GiB, NULL if it has none. */
static uint8_t *highest_e820(uint8_t *boot)
{
    uint8_t *best = NULL;

    for (unsigned i = 0; i < MIN(boot[BOOT_E820_COUNT], BOOT_E820_MAX); i++) {
        uint8_t *entry = boot + BOOT_E820 + BOOT_E820_ENTRY * i;

        if (ldl_le_p(entry + 16) == E820_RAM
            && ldq_le_p(entry) + ldq_le_p(entry + 8) <= 4 * GiB
            && (!best || ldq_le_p(entry) > ldq_le_p(best))) {
            best = entry;
        }
    }
    return best;
}

/*
 * Cut BLOB_SIZE out of the kernel's memory: below its initrd, or from the
 * end. Firmware that knows nothing of SEV needs nothing there any more.
 */
static uint64_t cut_blob(uint8_t *boot)
{
    uint64_t initrd = ldl_le_p(boot + BOOT_INITRD) & ~(RMEM_PAGE_SIZE - 1);
    uint8_t *entry = highest_e820(boot);
    uint64_t start, end, cut;

    if (!entry || boot[BOOT_E820_COUNT] + 2 > BOOT_E820_MAX) {
        return 0;
    }
    start = ldq_le_p(entry);
    end = start + ldq_le_p(entry + 8);
    cut = (initrd > start && initrd < end ? initrd : end)
          & ~(RMEM_PAGE_SIZE - 1);
    if (cut - start < BLOB_SIZE) {
        return 0;
    }
    set_e820(entry, start, cut - BLOB_SIZE, E820_RAM);
    /* As ACPI data: Linux maps that as private, early and late. */
    set_e820(new_e820(boot), cut - BLOB_SIZE, cut, E820_ACPI);
    if (cut < end) {
        set_e820(new_e820(boot), cut, end, E820_RAM);
    }
    return cut - BLOB_SIZE;
}

/* The blob goes to the front of the kernel's list of setup data. */
static void place_blob(SevGuest *sev, uint8_t *boot, uint64_t gpa)
{
    RestrictedMemory *rm = sev->rm;
    uint8_t *blob, *table;
    RestrictedPages pages;

    /* In the launch image, as all of RAM is, and used from now on. */
    restricted_pages(rm, gpa, BLOB_SIZE, &pages);
    for (uint64_t i = 0; i < pages.count; i++) {
        restricted_cpu_touch(rm, pages.first + i);
    }
    blob = restricted_ram(rm, gpa, BLOB_SIZE, RMEM_PRIVATE);
    table = blob + BLOB_TABLE;
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

/* ESI has the kernel's boot parameters; a guest that is no Linux has none. */
static void give_blob(SevGuest *sev, CPUState *cpu)
{
    uint64_t params = (uint32_t)cpu_env(cpu)->regs[R_ESI];
    uint8_t *boot = restricted_ram(sev->rm, params, RMEM_PAGE_SIZE,
                                   RMEM_PRIVATE);
    uint64_t gpa;

    if (!boot || memcmp(boot + BOOT_MAGIC, "HdrS", 4)) {
        return;
    }
    gpa = cut_blob(boot);
    if (!gpa) {
        warn_report("no room for the guest's secrets: the kernel will not "
                    "find that it is an SEV-SNP guest");
        return;
    }
    place_blob(sev, boot, gpa);
}

void sev_arm(SevGuest *sev, CPUState *cpu)
{
    if (qatomic_read(&sev->armed)) {
        return;
    }
    if (sev->level == SEV_SNP) {
        give_blob(sev, cpu);
    }
    qatomic_set(&sev->armed, true);
    restricted_seal(sev->rm);
    /* What a TLB holds was judged without the C-bit's meaning. */
    restricted_flush_later();
}

static bool check_sections(const SevGuest *sev, Error **errp)
{
    for (unsigned i = 0; i < sev->sections->len; i++) {
        const SevSection *section = &g_array_index(sev->sections, SevSection,
                                                   i);
        RestrictedPages pages;

        if (!restricted_pages(sev->rm, section->gpa, section->size, &pages)) {
            error_setg(errp, "firmware: SEV section %u at 0x%x is not in RAM",
                       i, section->gpa);
            return false;
        }
    }
    return true;
}

static bool init_metadata(SevGuest *sev, Error **errp)
{
    if (!restricted_firmware_size()) {
        error_setg(errp, "the firmware of an SEV guest is private memory, "
                   "not flash: say -bios FILE");
        return false;
    }
    /* The guest writes to it. */
    memory_region_set_readonly(&X86_MACHINE(qdev_get_machine())->bios, false);
    return check_sections(sev, errp);
}

/* With the C-bit too, for who walks page tables without a TLB. */
static void map_c_bit(SevGuest *sev)
{
    RestrictedMemory *rm = sev->rm;
    MemoryRegion *system = g_new0(MemoryRegion, 1);

    memory_region_init_alias(system, OBJECT(rm), "sev-c-bit",
                             get_system_memory(), 0, SEV_C_MASK);
    memory_region_add_subregion_overlap(&rm->cpu_root, SEV_C_MASK, system, 1);
    restricted_map_slots(rm, &rm->cpu_root,
                         MEMORY_REGION(&rm->cpu_guard.iommu), SEV_C_MASK,
                         "sev-c-bit-guarded");
}

bool sev_launch_init(SevGuest *sev, Error **errp)
{
    RestrictedMemory *rm = sev->rm;

    sev->vcpus = g_new0(SevVcpu,
                        MACHINE(qdev_get_machine())->smp.max_cpus);
    sev->split = g_malloc0(DIV_ROUND_UP(rm->core.pages, SEV_PAGES_2M));
    sev->vmsas = g_hash_table_new(NULL, NULL);
    map_c_bit(sev);
    if (sev->kernel_hashes && !sev->hashes_size) {
        error_setg(errp, "kernel-hashes=on: the firmware has no table for "
                   "them; OVMF.amdsev.fd has one");
        return false;
    }
    return !sev->metadata || init_metadata(sev, errp);
}

bool sev_launch_prepare(SevGuest *sev, Error **errp)
{
    gsize size;
    g_autofree uint8_t *image = restricted_firmware_read(&size);

    if (image && !sev_metadata_parse(sev, image, size, errp)) {
        return false;
    }
    if (!sev->metadata) {
        restricted_adopt_acpi_tables(sev->rm);
    }
    return true;
}
