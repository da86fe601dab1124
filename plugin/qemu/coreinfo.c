/*
 * What a Linux guest says of itself to those who read its memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A kernel that can be dumped keeps an ELF note, VMCOREINFO, in its memory: its
 * release, where it was loaded, the layout of its page tables. It tells the host
 * the address only with a driver that few images load (qemu_fw_cfg). So the note
 * is looked for: it is at the start of a page, in memory that the guest has
 * accepted. See kernel/vmcore_info.c of Linux.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "elf.h"
#include "hw/restricted-memory/qemu/coreinfo.h"

#define NOTE_NAME "VMCOREINFO"
#define NOTE_START "OSRELEASE="
#define TEXT_AT (sizeof(Elf64_Nhdr) + ROUND_UP(sizeof(NOTE_NAME), 4))
/* The kernel gives the text a page, and the note another one at most. */
#define TEXT_MAX RMEM_PAGE_SIZE

/* The size of the note at @page, of which @left bytes are there; 0 if none. */
static size_t note_size(const uint8_t *page, uint64_t left)
{
    uint32_t text = ldl_le_p(page + offsetof(Elf64_Nhdr, n_descsz));

    if (ldl_le_p(page + offsetof(Elf64_Nhdr, n_namesz)) != sizeof(NOTE_NAME)
        || memcmp(page + sizeof(Elf64_Nhdr), NOTE_NAME, sizeof(NOTE_NAME))
        || memcmp(page + TEXT_AT, NOTE_START, strlen(NOTE_START))
        || text > TEXT_MAX || TEXT_AT + ROUND_UP(text, 4) > left) {
        return 0;
    }
    return TEXT_AT + ROUND_UP(text, 4);
}

const uint8_t *restricted_coreinfo(const RestrictedMemory *rm,
                                   const uint8_t *view, size_t *size)
{
    for (uint64_t page = 0; page < rm->core.pages;) {
        RmemRun run = rmem_run_at(&rm->core, page, rm->core.pages - page);

        for (; run.state == RMEM_PRIVATE && run.count; run.first++, run.count--) {
            const uint8_t *at = view + (run.first << RMEM_PAGE_BITS);

            *size = note_size(at, run.count << RMEM_PAGE_BITS);
            if (*size) {
                return at;
            }
        }
        page = run.first + run.count;
    }
    return NULL;
}
