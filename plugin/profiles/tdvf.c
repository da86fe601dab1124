/*
 * TDVF: what the firmware says about itself, and what it is told of memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * TDVF, chapters 3.7 "TD Hand-Off Block" and 11 "TDVF Metadata"; PI
 * specification, volume 3, for the HOBs.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "hw/i386/pc.h"
#include "tdx.h"

#define METADATA_OFFSET_GUID "e47a6535-984a-4798-865e-4685a7bf8ec2"
#define METADATA_SIGNATURE  "TDVF"
#define METADATA_VERSION    1
#define MAX_SECTIONS        64

typedef struct QEMU_PACKED MetadataHeader {
    char signature[4];
    uint32_t length, version, count;
} MetadataHeader;

typedef struct QEMU_PACKED MetadataSection {
    uint32_t offset, raw_size;
    uint64_t gpa, size;
    uint32_t type, attributes;
} MetadataSection;

static bool parse_section(const MetadataSection *raw, TdvfSection *section,
                          Error **errp)
{
    *section = (TdvfSection) {
        .offset = le32_to_cpu(raw->offset),
        .raw_size = le32_to_cpu(raw->raw_size),
        .gpa = le64_to_cpu(raw->gpa), .size = le64_to_cpu(raw->size),
        .type = le32_to_cpu(raw->type),
        .attributes = le32_to_cpu(raw->attributes),
    };
    if (section->type > TDVF_TEMP_MEM || !section->size
        || (section->gpa | section->size) & (RMEM_PAGE_SIZE - 1)
        || section->size > 4 * GiB || section->gpa > 4 * GiB
        || section->raw_size > section->size) {
        error_setg(errp, "TDVF: section at 0x%" PRIx64 " of 0x%" PRIx64
                   " bytes, type %u, cannot be placed", section->gpa,
                   section->size, section->type);
        return false;
    }
    return true;
}

GArray *tdvf_parse(const uint8_t *image, size_t size, Error **errp)
{
    g_autoptr(GArray) sections = g_array_new(false, false,
                                             sizeof(TdvfSection));
    MetadataHeader header;
    uint8_t *found;
    int found_size = 0;
    uint32_t offset;

    pc_system_parse_ovmf_flash((uint8_t *)image, size);
    if (!pc_system_ovmf_table_find(METADATA_OFFSET_GUID, &found, &found_size)
        || found_size < (int)sizeof(offset)) {
        return NULL;                /* not TDVF */
    }
    offset = ldl_le_p(found);
    if (offset > size || offset < sizeof(header)) {
        error_setg(errp, "TDVF: the metadata is outside of the firmware");
        return NULL;
    }
    memcpy(&header, image + size - offset, sizeof(header));
    header.count = le32_to_cpu(header.count);
    if (memcmp(header.signature, METADATA_SIGNATURE, 4)
        || le32_to_cpu(header.version) != METADATA_VERSION
        || header.count > MAX_SECTIONS
        || offset < sizeof(header) + header.count * sizeof(MetadataSection)) {
        error_setg(errp, "TDVF: the metadata is not understood");
        return NULL;
    }
    for (uint32_t i = 0; i < header.count; i++) {
        MetadataSection raw;
        TdvfSection section;

        memcpy(&raw, image + size - offset + sizeof(header)
                     + i * sizeof(raw), sizeof(raw));
        if (!parse_section(&raw, &section, errp)) {
            return NULL;
        }
        g_array_append_val(sections, section);
    }
    return g_steal_pointer(&sections);
}

/* PI specification, volume 3, chapter 5 */
enum { HOB_HANDOFF = 1, HOB_RESOURCE = 3, HOB_END = 0xffff };
enum { RESOURCE_MEMORY = 0, RESOURCE_UNACCEPTED = 7 };
#define RESOURCE_ATTRIBUTES 7       /* present, initialized, tested */
#define HANDOFF_VERSION 9

typedef struct QEMU_PACKED HobHeader {
    uint16_t type, length;
    uint32_t reserved;
} HobHeader;

typedef struct QEMU_PACKED HobHandoff {
    HobHeader header;
    uint32_t version, boot_mode;
    uint64_t memory_top, memory_bottom, free_top, free_bottom, end;
} HobHandoff;

typedef struct QEMU_PACKED HobResource {
    HobHeader header;
    uint8_t owner[16];
    uint32_t type, attributes;
    uint64_t start, length;
} HobResource;

typedef struct HobList {
    uint8_t *at, *end;
    bool full;
} HobList;

static void hob_add(HobList *list, void *hob, size_t size, uint16_t type)
{
    HobHeader *header = hob;

    header->type = cpu_to_le16(type);
    header->length = cpu_to_le16(size);
    if (list->end - list->at < (ptrdiff_t)size) {
        list->full = true;
        return;
    }
    memcpy(list->at, hob, size);
    list->at += size;
}

static void hob_add_memory(HobList *list, uint32_t type, uint64_t start,
                           uint64_t end)
{
    HobResource hob = {
        .type = cpu_to_le32(type),
        .attributes = cpu_to_le32(RESOURCE_ATTRIBUTES),
        .start = cpu_to_le64(start), .length = cpu_to_le64(end - start),
    };

    if (start < end) {
        hob_add(list, &hob, sizeof(hob), HOB_RESOURCE);
    }
}

/* The section with the lowest address in [start, end), NULL if none. */
static const TdvfSection *next_section(const TdxGuest *tdx, uint64_t start,
                                       uint64_t end)
{
    const TdvfSection *lowest = NULL;

    for (unsigned i = 0; i < tdx->sections->len; i++) {
        const TdvfSection *section = &g_array_index(tdx->sections,
                                                    TdvfSection, i);

        if (section->gpa >= start && section->gpa < end
            && (!lowest || section->gpa < lowest->gpa)) {
            lowest = section;
        }
    }
    return lowest;
}

/* What the sections cover is accepted, the rest of [at, end) is not. */
static void hob_add_ram(HobList *list, const TdxGuest *tdx, uint64_t at,
                        uint64_t end)
{
    const TdvfSection *section;

    while ((section = next_section(tdx, at, end))) {
        hob_add_memory(list, RESOURCE_UNACCEPTED, at, section->gpa);
        at = section->gpa + section->size;
        hob_add_memory(list, RESOURCE_MEMORY, section->gpa, at);
    }
    hob_add_memory(list, RESOURCE_UNACCEPTED, at, end);
}

bool tdvf_build_hob(TdxGuest *tdx, uint8_t *hob, uint64_t gpa, uint64_t size)
{
    const RestrictedMemory *rm = tdx->rm;
    HobList list = { .at = hob, .end = hob + size };
    HobHandoff handoff = { .version = cpu_to_le32(HANDOFF_VERSION) };
    HobHeader end = { 0 };

    memset(hob, 0, size);
    hob_add(&list, &handoff, sizeof(handoff), HOB_HANDOFF);
    for (unsigned i = 0; i < rm->nslots; i++) {
        uint64_t start = rm->slots[i].gpa, top = start + rm->slots[i].size;

        /* No hole: private addresses between these two are RAM. */
        if (i + 1 < rm->nslots && top == 640 * KiB
            && rm->slots[i + 1].gpa == 1 * MiB) {
            top = rm->slots[i + 1].gpa + rm->slots[i + 1].size;
            i++;
        }
        hob_add_ram(&list, tdx, start, top);
    }
    hob_add(&list, &end, sizeof(end), HOB_END);
    handoff.end = cpu_to_le64(gpa + (list.at - hob));
    handoff.header.type = cpu_to_le16(HOB_HANDOFF);
    handoff.header.length = cpu_to_le16(sizeof(handoff));
    memcpy(hob, &handoff, sizeof(handoff));
    return !list.full;
}
