/*
 * TDVF: the sections that firmware describes, and the HOBs that describe memory
 * to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * TDVF, chapters 3.7 "TD Hand-Off Block" and 11 "TDVF Metadata"; PI
 * specification, volume 3, for the HOBs.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "hw/restricted-memory/qemu/x86/pc-hole.h"
#include "hw/restricted-memory/profiles/ovmf.h"
#include "hw/restricted-memory/profiles/tdx/tdvf.h"

#define METADATA_OFFSET_GUID "e47a6535-984a-4798-865e-4685a7bf8ec2"
#define METADATA_VERSION    1
#define HEADER_BYTES        16
#define MIN_SECTIONS        2

typedef struct QEMU_PACKED MetadataSection {
    uint32_t offset, raw_size;
    uint64_t gpa, size;
    uint32_t type, attributes;
} MetadataSection;

/* As in QEMU's hw/i386/tdvf.c: what is copied has data, the rest has none. */
static bool check_data(const TdvfSection *section, size_t image)
{
    bool copied = section->type == TDVF_BFV || section->type == TDVF_CFV;

    return copied == (section->raw_size > 0)
           && section->raw_size <= section->size
           && (!copied || (section->offset <= image
                           && section->size <= image - section->offset));
}

static bool parse_section(const MetadataSection *raw, TdvfSection *section,
                          size_t image, Error **errp)
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
        || !check_data(section, image)) {
        error_setg(errp, "TDVF: section at 0x%" PRIx64 " of 0x%" PRIx64
                   " bytes, type %u, with 0x%x bytes of data, cannot be placed",
                   section->gpa, section->size, section->type,
                   section->raw_size);
        return false;
    }
    return true;
}

GArray *tdvf_parse(const uint8_t *image, size_t size, Error **errp)
{
    g_autoptr(GArray) sections = g_array_new(false, false,
                                             sizeof(TdvfSection));
    OvmfSections found;
    const uint8_t *offset;

    restricted_ovmf_parse(image, size);
    offset = restricted_ovmf_entry(METADATA_OFFSET_GUID, sizeof(uint32_t));
    if (!offset) {
        return NULL;                /* not TDVF */
    }
    if (!restricted_ovmf_sections(image, size, ldl_le_p(offset), "TDVF",
                                  sizeof(MetadataSection), "TDVF", &found,
                                  errp)) {
        return NULL;
    }
    if (found.version != METADATA_VERSION) {
        error_setg(errp, "firmware: its TDVF metadata has version %u, only "
                   "%d is known", found.version, METADATA_VERSION);
        return NULL;
    }
    if (found.count < MIN_SECTIONS
        || found.length != HEADER_BYTES
                           + found.count * sizeof(MetadataSection)) {
        error_setg(errp, "firmware: its TDVF metadata has %u sections in %u "
                   "bytes", found.count, found.length);
        return NULL;
    }
    for (uint32_t i = 0; i < found.count; i++) {
        MetadataSection raw;
        TdvfSection section;

        memcpy(&raw, found.first + i * sizeof(raw), sizeof(raw));
        if (!parse_section(&raw, &section, size, errp)) {
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

/* Memory of the sections is accepted, the rest of [at, end) is not. */
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

        /* The PC hole between these two is RAM at private addresses. */
        if (i + 1 < rm->nslots && top == PC_HOLE_START
            && rm->slots[i + 1].gpa == PC_HOLE_END) {
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
