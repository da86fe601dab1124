/*
 * SEV: the launch of a guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With firmware that has SEV metadata (OVMF, by -bios), its sections are the
 * launch image, and the C-bit has its meaning from the first instruction on.
 * Other firmware (SeaBIOS) does not know SEV: all of RAM is in the launch
 * image, and the launch lasts until the kernel reads SEV_STATUS, which it does
 * with paging off. Then blob.c tells it what firmware would have told it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/units.h"
#include "hw/i386/pc.h"
#include "hw/i386/x86.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/spaces.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/qemu/x86/firmware.h"
#include "hw/restricted-memory/profiles/sev/ap.h"
#include "hw/restricted-memory/profiles/sev/blob.h"
#include "hw/restricted-memory/profiles/sev/id-block.h"
#include "hw/restricted-memory/profiles/sev/launch.h"
#include "hw/restricted-memory/profiles/sev/measure.h"
#include "hw/restricted-memory/profiles/sev/metadata.h"
#include "hw/restricted-memory/profiles/sev/request.h"
#include "hw/restricted-memory/profiles/sev/vmstate.h"

/* check_sections() and check_hashes() have found it to be RAM. */
static uint8_t *load(SevGuest *sev, uint64_t gpa, uint64_t size)
{
    RestrictedPages pages = { 0 };

    if (!restricted_pages(sev->rm, gpa, size, &pages)) {
        g_assert_not_reached();
    }
    restricted_load(sev->rm, &pages);
    return restricted_content(sev->rm, pages.first, RMEM_PRIVATE);
}

/* As sev.c of QEMU: without hashes, the page of their table is zeros. */
static SevPageType page_type(RestrictedMemory *rm, uint32_t section)
{
    switch (section) {
    case SEV_SECRETS:
        return SEV_PAGE_SECRETS;
    case SEV_CPUID:
        return SEV_PAGE_CPUID;
    case SEV_KERNEL_HASHES:
        return sev_hashes(rm) ? SEV_PAGE_NORMAL : SEV_PAGE_ZERO;
    default:
        return SEV_PAGE_ZERO;
    }
}

static void launch_section(SevGuest *sev, const SevSection *section)
{
    uint8_t *content = load(sev, section->gpa, section->size);
    SevPageType type = page_type(sev->rm, section->type);

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

/* Without an RMP, only the hashes have to be placed. */
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

/* FW, SNP_LAUNCH_FINISH */
static void finish(SevGuest *sev)
{
    Error *err = NULL;

    if (sev->level != SEV_SNP) {
        return;
    }
    sev_measure_cpus(sev, MACHINE(qdev_get_machine())->smp.cpus);
    if (!sev_id_check(sev, &err)) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
}

void sev_launch(RestrictedMemory *rm)
{
    SevGuest *sev = sev_guest();
    unsigned cpus = MACHINE(qdev_get_machine())->smp.max_cpus;

    for (unsigned i = 0; i < cpus; i++) {
        sev_ap_reset(&sev->vcpus[i]);
    }
    memset(sev->split, 0, DIV_ROUND_UP(rm->core.pages, RESTRICTED_PAGES_2M));
    g_hash_table_remove_all(sev->vmsas);
    qatomic_set(&sev->jump_table, 0);
    qatomic_set(&sev->armed, false);
    qatomic_set(&sev->counts_mapping, sev->level == SEV_PLAIN);
    memset(sev->measurement, 0, sizeof(sev->measurement));
    qemu_guest_getrandom_nofail(&rm->noise, sizeof(rm->noise));
    qemu_guest_getrandom_nofail(sev->vmpck, sizeof(sev->vmpck));
    qemu_guest_getrandom_nofail(sev->report_id, sizeof(sev->report_id));
    if (sev->metadata) {
        launch_metadata(sev);
    } else {
        launch_firmware(sev);
        WITH_RESTRICTED_LOCK(&rm->lock) {
            rmem_set_launch(&rm->core, 0, rm->core.pages);
        }
    }
    finish(sev);
    sev_request_launch(sev, cpus);
}

void sev_arm(SevGuest *sev, CPUState *cpu)
{
    if (qatomic_read(&sev->armed)) {
        return;
    }
    if (sev->level == SEV_SNP) {
        sev_give_blob(sev, cpu);
    }
    qatomic_set(&sev->armed, true);
    restricted_seal(sev->rm);
    /* The entries of the TLBs were judged without regard to the C-bit. */
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

/* The table of hashes is in one page, which is RAM. */
static bool check_hashes(const SevGuest *sev, Error **errp)
{
    uint64_t page = sev->hashes_gpa & ~(RMEM_PAGE_SIZE - 1);
    RestrictedPages pages;

    if (sev->hashes_size
        && (sev->hashes_gpa - page
            + MIN(sizeof(sev->hashes), sev->hashes_size) > RMEM_PAGE_SIZE
            || !restricted_pages(sev->rm, page, RMEM_PAGE_SIZE, &pages))) {
        error_setg(errp, "firmware: the table of hashes at 0x%x is not in a "
                   "page of RAM", sev->hashes_gpa);
        return false;
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
    return check_sections(sev, errp) && check_hashes(sev, errp);
}

/* For page walks without a TLB: memory at addresses with the C-bit. */
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
    sev->split = g_malloc0(DIV_ROUND_UP(rm->core.pages, RESTRICTED_PAGES_2M));
    sev->vmsas = g_hash_table_new(NULL, NULL);
    sev_vmstate_init(sev);
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
