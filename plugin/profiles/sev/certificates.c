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
#include "qemu/cutils.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/sev/certificates.h"

/* Linux, SEV_FW_BLOB_MAX_SIZE: its driver has no larger buffer. */
#define MAX_BYTES       0x4000

/* Of the table: a GUID, then where the certificate is in the file. */
#define ENTRY_SIZE      24
#define ENTRY_OFFSET    16
#define ENTRY_LENGTH    20

/* FW, table "Message Header": requests of other types carry no certificates. */
#define HEADER_MSG_TYPE 0x34
#define MSG_REPORT_REQ  5

/* SW_EXITINFO2 63:32: the buffer is too small. */
#define VMM_ERROR_INVALID_LENGTH    (UINT64_C(1) << 32)

static bool is_table(const uint8_t *table, size_t size)
{
    for (size_t at = 0; size - at >= ENTRY_SIZE; at += ENTRY_SIZE) {
        const uint8_t *entry = table + at;
        uint64_t end = (uint64_t)ldl_le_p(entry + ENTRY_OFFSET)
                       + ldl_le_p(entry + ENTRY_LENGTH);

        if (buffer_is_zero(entry, ENTRY_SIZE)) {
            return true;
        }
        if (end > size) {
            return false;
        }
    }
    return false;
}

bool sev_certificates_get(SevGuest *sev, Error **errp)
{
    g_autoptr(GError) error = NULL;
    struct stat status;
    char *content;

    if (!sev->certs_path) {
        return true;
    }
    if (stat(sev->certs_path, &status)) {
        error_setg_file_open(errp, errno, sev->certs_path);
        return false;
    }
    if (!S_ISREG(status.st_mode) || status.st_size > MAX_BYTES) {
        error_setg(errp, "certs-path: %s is no file of at most %d bytes",
                   sev->certs_path, MAX_BYTES);
        return false;
    }
    if (!g_file_get_contents(sev->certs_path, &content,
                             &sev->certificates_size, &error)) {
        error_setg(errp, "certs-path: %s", error->message);
        return false;
    }
    sev->certificates = (uint8_t *)content;
    if (sev->certificates_size > MAX_BYTES
        || !is_table(sev->certificates, sev->certificates_size)) {
        error_setg(errp, "certs-path: %s is not a table of certificates",
                   sev->certs_path);
        return false;
    }
    return true;
}

/* RAX: buffer, RBX: its pages; without certificates it may have none. */
bool sev_certificates_give(SevExit *exit, const uint8_t *request)
{
    const SevGuest *sev = exit->sev;
    uint64_t gpa = sev_ghcb_get(exit, GHCB_RAX);
    uint64_t pages = sev_ghcb_get(exit, GHCB_RBX);
    size_t size = sev->certificates ? sev->certificates_size : ENTRY_SIZE;
    uint64_t needed = DIV_ROUND_UP(size, RMEM_PAGE_SIZE);
    uint8_t *table;

    if (qatomic_read(request + HEADER_MSG_TYPE) != MSG_REPORT_REQ) {
        return true;
    }
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
