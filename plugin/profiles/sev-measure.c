/*
 * SEV-SNP: the launch digest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * FW, chapter 8.17.2: a chain of SHA-384 over PAGE_INFO, as the firmware
 * computes it, over the pages that sev-launch.c places in its order and over
 * no VMSA, whose content here is QEMU's. So it is not what hardware would
 * get for the same guest, and it proves nothing.
 */

#include "qemu/osdep.h"
#include "sev.h"

typedef struct QEMU_PACKED PageInfo {
    uint8_t digest[48];             /* so far */
    uint8_t contents[48];           /* digest of the page, zeros if none */
    uint16_t length;
    uint8_t type, is_migration;
    uint8_t vmpl_permissions[4];
    uint64_t gpa;
} PageInfo;

QEMU_BUILD_BUG_ON(sizeof(PageInfo) != 0x70);

static void sha384(const void *data, size_t size, uint8_t digest[48])
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA384);
    gsize length = 48;

    g_checksum_update(sum, data, size);
    g_checksum_get_digest(sum, digest, &length);
}

void sev_measure(SevGuest *sev, SevPageType type, uint64_t gpa,
                 const uint8_t *content)
{
    PageInfo info = {
        .length = cpu_to_le16(sizeof(PageInfo)), .type = type,
        .gpa = cpu_to_le64(gpa),
    };

    memcpy(info.digest, sev->measurement, sizeof(info.digest));
    if (type == SEV_PAGE_NORMAL) {
        sha384(content, RMEM_PAGE_SIZE, info.contents);
    }
    sha384(&info, sizeof(info), sev->measurement);
}
