/*
 * When a kernel's EFI stub begins to run.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For firmware, a kernel given with -kernel is an ordinary PE image: it reads
 * the image, places it anywhere and jumps to it, without telling the host. But
 * the host knows the image. The stub has begun when an instruction is fetched
 * from a page whose content is one of the image's code pages. A kernel that is
 * started in another way has the same pages: the architecture tells it apart.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/efi-stub.h"

/* Microsoft's PE/COFF specification: offsets in the image and its headers */
#define DOS_PE_OFFSET       0x3c
#define PE_SECTIONS         6
#define PE_OPTIONAL_SIZE    20
#define PE_HEADER_SIZE      24
#define SECTION_RVA         12
#define SECTION_RAW_SIZE    16
#define SECTION_RAW_OFFSET  20
#define SECTION_FLAGS       36
#define SECTION_SIZE        40
#define SECTION_IS_CODE     0x20000000

static struct {
    GMappedFile *image;
    GHashTable *pages;          /* a page's first 8 bytes -> the page */
} stub;

static uint64_t image_size(void)
{
    return g_mapped_file_get_length(stub.image);
}

static const uint8_t *image_at(uint64_t offset, uint64_t size)
{
    if (offset > image_size() || size > image_size() - offset) {
        return NULL;
    }
    return (uint8_t *)g_mapped_file_get_contents(stub.image) + offset;
}

static void add_section(const uint8_t *section)
{
    uint64_t at = ldl_le_p(section + SECTION_RAW_OFFSET);
    uint64_t end = at + ldl_le_p(section + SECTION_RAW_SIZE);
    const uint8_t *page;

    /* A section that is not aligned to pages cannot be recognized by them. */
    if (!(ldl_le_p(section + SECTION_FLAGS) & SECTION_IS_CODE)
        || (at | ldl_le_p(section + SECTION_RVA)) & (RMEM_PAGE_SIZE - 1)) {
        return;
    }
    for (; at + RMEM_PAGE_SIZE <= end; at += RMEM_PAGE_SIZE) {
        page = image_at(at, RMEM_PAGE_SIZE);
        if (page) {
            g_hash_table_insert(stub.pages, (gpointer)page, (gpointer)page);
        }
    }
}

static void add_pages(void)
{
    const uint8_t *dos = image_at(0, DOS_PE_OFFSET + 4), *pe, *section;
    uint64_t at;

    if (!dos || memcmp(dos, "MZ", 2)) {
        return;
    }
    at = ldl_le_p(dos + DOS_PE_OFFSET);
    pe = image_at(at, PE_HEADER_SIZE);
    if (!pe || memcmp(pe, "PE\0\0", 4)) {
        return;
    }
    at += PE_HEADER_SIZE + lduw_le_p(pe + PE_OPTIONAL_SIZE);
    for (unsigned i = 0; i < lduw_le_p(pe + PE_SECTIONS); i++) {
        section = image_at(at + i * SECTION_SIZE, SECTION_SIZE);
        if (section) {
            add_section(section);
        }
    }
}

void restricted_stub_machine_done(RestrictedMemory *rm)
{
    const char *kernel = current_machine->kernel_filename;

    stub.image = kernel ? g_mapped_file_new(kernel, false, NULL) : NULL;
    if (stub.image) {
        stub.pages = g_hash_table_new(g_int64_hash, g_int64_equal);
        add_pages();
    }
    restricted_stub_reset(rm);
}

void restricted_stub_reset(RestrictedMemory *rm)
{
    qatomic_set(&rm->code_awaited,
                stub.pages && g_hash_table_size(stub.pages) > 0);
}

void restricted_stub_code(RestrictedMemory *rm, bool may_be_stub,
                          const uint8_t *page)
{
    const uint8_t *found;

    if (rmem_phase(&rm->core) != RMEM_PH_FIRMWARE) {
        qatomic_set(&rm->code_awaited, false);
        return;
    }
    found = g_hash_table_lookup(stub.pages, page);
    if (!found || memcmp(found, page, RMEM_PAGE_SIZE)) {
        return;
    }
    qatomic_set(&rm->code_awaited, false);
    if (may_be_stub) {
        restricted_phase(rm, RMEM_PH_EFI_STUB, 0);
    }
}
