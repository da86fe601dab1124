/*
 * SEV-SNP: the certificates that an extended guest request returns.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, "SNP Extended Guest Request". The file has them as the guest gets them:
 * a table of GUIDs, offsets and lengths that ends with zeros, then the content.
 * Without a file the table is empty, as with KVM.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/sev/certificates.h"

/* Linux, SEV_FW_BLOB_MAX_SIZE: its driver has no larger buffer. */
#define MAX_BYTES       0x4000
#define EMPTY_TABLE     24

/* SW_EXITINFO2 63:32: the buffer is too small. */
#define VMM_ERROR_INVALID_LENGTH    (UINT64_C(1) << 32)

bool sev_certificates_get(SevGuest *sev, Error **errp)
{
    g_autoptr(GError) error = NULL;
    char *content;

    if (!sev->certs_path) {
        return true;
    }
    if (!g_file_get_contents(sev->certs_path, &content,
                             &sev->certificates_size, &error)) {
        error_setg(errp, "certs-path: %s", error->message);
        return false;
    }
    sev->certificates = (uint8_t *)content;
    if (sev->certificates_size < EMPTY_TABLE
        || sev->certificates_size > MAX_BYTES) {
        error_setg(errp, "certs-path: %s has %zu bytes; a table has %d to %d",
                   sev->certs_path, sev->certificates_size, EMPTY_TABLE,
                   MAX_BYTES);
        return false;
    }
    return true;
}

/* RAX: buffer, RBX: its pages; without certificates it may have none. */
bool sev_certificates_give(SevExit *exit)
{
    const SevGuest *sev = exit->sev;
    uint64_t gpa = sev_ghcb_get(exit, GHCB_RAX);
    uint64_t pages = sev_ghcb_get(exit, GHCB_RBX);
    size_t size = sev->certificates ? sev->certificates_size : EMPTY_TABLE;
    uint64_t needed = DIV_ROUND_UP(size, RMEM_PAGE_SIZE);
    uint8_t *table;

    if (!sev_ghcb_has(exit, GHCB_RAX) || !sev_ghcb_has(exit, GHCB_RBX)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return false;
    }
    if (!sev->certificates && !pages) {
        return true;
    }
    if (pages < needed) {
        sev_ghcb_put(exit, GHCB_RBX, needed);
        exit->out2 = VMM_ERROR_INVALID_LENGTH;
        return false;
    }
    table = restricted_ram(sev->rm, gpa, needed * RMEM_PAGE_SIZE, RMEM_SHARED);
    if (!table || gpa & ~TARGET_PAGE_MASK) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return false;
    }
    if (sev->certificates) {
        memcpy(table, sev->certificates, size);
    } else {
        memset(table, 0, size);
    }
    return true;
}
