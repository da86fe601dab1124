/*
 * The tables by which OVMF tells a VMM how to launch it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_OVMF_H
#define HW_RESTRICTED_MEMORY_PROFILES_OVMF_H

/* Read the table of GUIDed entries at the end of @image. */
void restricted_ovmf_parse(const uint8_t *image, size_t size);

/* The entry of @guid, if it is at least @size bytes long; else NULL. */
const uint8_t *restricted_ovmf_entry(const char *guid, size_t size);

/* A list of sections in the firmware. */
typedef struct OvmfSections {
    const uint8_t *first;
    uint32_t length;                /* that the header says, in bytes */
    uint32_t version;
    uint32_t count;
} OvmfSections;

/*
 * Find the list that begins @from_end bytes before the end of @image, with
 * @signature and entries of @entry_size bytes; @name is for the error.
 */
bool restricted_ovmf_sections(const uint8_t *image, size_t size,
                              uint32_t from_end, const char *signature,
                              size_t entry_size, const char *name,
                              OvmfSections *sections, Error **errp);

#endif
