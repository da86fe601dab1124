/*
 * SEV-SNP: the launch digest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * FW, chapter 8.17.2: a chain of SHA-384 over PAGE_INFO, as the firmware
 * computes it, over the pages that launch.c places, in its order, and then the
 * vCPUs. It is what hardware computes for the same guest, launched by QEMU with
 * KVM, if firmware has SEV metadata.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/sha384.h"
#include "hw/restricted-memory/profiles/sev/measure.h"
#include "hw/restricted-memory/profiles/sev/vmsa.h"

/* FW, SNP_LAUNCH_UPDATE: where a VMSA is said to be */
#define VMSA_GPA        UINT64_C(0xfffffffff000)
#define RESET_VECTOR    0xfffffff0

typedef struct QEMU_PACKED PageInfo {
    uint8_t digest[SHA384_BYTES];   /* so far */
    uint8_t contents[SHA384_BYTES]; /* digest of the page, zeros if none */
    uint16_t length;
    uint8_t type, is_migration;
    uint8_t vmpl_permissions[4];
    uint64_t gpa;
} PageInfo;

QEMU_BUILD_BUG_ON(sizeof(PageInfo) != 0x70);

void sev_measure(SevGuest *sev, SevPageType type, uint64_t gpa,
                 const uint8_t *content)
{
    PageInfo info = {
        .length = cpu_to_le16(sizeof(PageInfo)), .type = type,
        .gpa = cpu_to_le64(gpa),
    };

    memcpy(info.digest, sev->measurement, sizeof(info.digest));
    if (type == SEV_PAGE_NORMAL || type == SEV_PAGE_VMSA) {
        restricted_sha384(content, RMEM_PAGE_SIZE, info.contents);
    }
    restricted_sha384(&info, sizeof(info), sev->measurement);
}

void sev_measure_cpus(SevGuest *sev, unsigned cpus)
{
    g_autofree uint8_t *page = g_malloc(RMEM_PAGE_SIZE);

    for (unsigned i = 0; i < cpus; i++) {
        sev_vmsa_at_launch(sev, page, i && sev->ap_reset ? sev->ap_reset
                                      : RESET_VECTOR);
        sev_measure(sev, SEV_PAGE_VMSA, VMSA_GPA, page);
    }
}
