/*
 * The tables by which OVMF tells a VMM how to launch it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * OvmfPkg/ResetVector. QEMU finds the GUIDed entries (hw/i386/pc_sysfw_ovmf.c);
 * one of them leads to a list of sections, whose header is the same for all
 * technologies.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/i386/pc.h"
#include "hw/restricted-memory/profiles/ovmf.h"

#define MAX_SECTIONS    64

typedef struct QEMU_PACKED SectionsHeader {
    char signature[4];
    uint32_t length, version, count;
} SectionsHeader;

void restricted_ovmf_parse(const uint8_t *image, size_t size)
{
    pc_system_parse_ovmf_flash((uint8_t *)image, size);
}

const uint8_t *restricted_ovmf_entry(const char *guid, size_t size)
{
    uint8_t *found;
    int found_size = 0;

    return pc_system_ovmf_table_find(guid, &found, &found_size)
           && found_size >= (int)size ? found : NULL;
}

bool restricted_ovmf_sections(const uint8_t *image, size_t size,
                              uint32_t from_end, const char *signature,
                              size_t entry_size, const char *name,
                              OvmfSections *sections, Error **errp)
{
    SectionsHeader header;

    if (from_end > size || from_end < sizeof(header)) {
        error_setg(errp, "firmware: its %s metadata is outside the file", name);
        return false;
    }
    memcpy(&header, image + size - from_end, sizeof(header));
    sections->first = image + size - from_end + sizeof(header);
    sections->length = le32_to_cpu(header.length);
    sections->version = le32_to_cpu(header.version);
    sections->count = le32_to_cpu(header.count);
    if (memcmp(header.signature, signature, sizeof(header.signature))
        || sections->count > MAX_SECTIONS
        || from_end < sizeof(header) + sections->count * entry_size) {
        error_setg(errp, "firmware: its %s metadata is malformed", name);
        return false;
    }
    return true;
}
