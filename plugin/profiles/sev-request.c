/*
 * SEV-SNP: guest requests, answered over a socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, 4.1.7 and 4.1.8. The request page is encrypted with a key of the
 * secrets page (FW, chapter 8.26); whoever is behind the socket has been told
 * the keys and plays the PSP, so there is no cryptography here. Each message
 * is preceded by its length, four bytes, big-endian; its fields are
 * little-endian. The guest waits, as it does for the PSP.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "sev.h"
#include "trace.h"

#define REQUEST_VERSION     1
#define REQUEST_DEADLINE_S  20

/* GHCB, 4.1.7: SW_EXITINFO2 63:32, the host's word */
#define VMM_ERROR_GENERIC   (UINT64_C(0xffffffff) << 32)

enum { MESSAGE_LAUNCH = 1, MESSAGE_REQUEST, MESSAGE_ANSWER };

typedef struct QEMU_PACKED LaunchMessage {
    uint32_t length_be;
    uint32_t type, version;
    uint64_t policy;
    uint8_t vmpck[4][32];
    uint8_t measurement[48];
    uint8_t host_data[32];
    uint8_t family_id[16], image_id[16];
    uint32_t guest_svn;
    uint32_t flags;                 /* bit 0: there is an author key */
    uint8_t id_key_digest[48], author_key_digest[48];
    uint8_t report_id[32];
} LaunchMessage;

typedef struct QEMU_PACKED RequestMessage {
    uint32_t length_be;
    uint32_t type, status;
    uint8_t page[RMEM_PAGE_SIZE];
} RequestMessage;

/* FW, table "ID Block Structure" */
enum { ID_FAMILY = 48, ID_IMAGE = 64, ID_SVN = 84 };

static QIOChannelSocket *channel;   /* channel_lock */
static QemuMutex channel_lock;      /* a leaf; held while the PSP works */

static void __attribute__((constructor)) channel_init(void)
{
    qemu_mutex_init(&channel_lock);
}

static void channel_close(void)
{
    if (channel) {
        qio_channel_close(QIO_CHANNEL(channel), NULL);
        g_clear_pointer(&channel, object_unref);
    }
}

static void channel_deadline(int fd)
{
    struct timeval deadline = { .tv_sec = REQUEST_DEADLINE_S };

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline));
}

/* The channel blocks, so where it would block the deadline is over. */
static bool transfer(void *data, size_t size, bool write, Error **errp)
{
    for (size_t done = 0; done < size; ) {
        struct iovec iov = { (char *)data + done, size - done };
        ssize_t n = write
            ? qio_channel_writev(QIO_CHANNEL(channel), &iov, 1, errp)
            : qio_channel_readv(QIO_CHANNEL(channel), &iov, 1, errp);

        if (n <= 0) {
            if (n != -1) {
                error_setg(errp, n ? "no answer within %d s"
                                   : "the connection was closed "
                                     "(waited up to %d s)",
                           REQUEST_DEADLINE_S);
            }
            return false;
        }
        done += n;
    }
    return true;
}

static bool send_launch(const SevGuest *sev, Error **errp)
{
    LaunchMessage message = {
        .length_be = cpu_to_be32(sizeof(message) - 4),
        .type = cpu_to_le32(MESSAGE_LAUNCH),
        .version = cpu_to_le32(REQUEST_VERSION),
        .policy = cpu_to_le64(sev->policy),
        .flags = cpu_to_le32(!buffer_is_zero(sev->author_key_digest, 48)),
    };

    memcpy(message.vmpck, sev->vmpck, sizeof(message.vmpck));
    memcpy(message.measurement, sev->measurement, 48);
    memcpy(message.host_data, sev->host_data, 32);
    memcpy(message.family_id, sev->id_block + ID_FAMILY, 16);
    memcpy(message.image_id, sev->id_block + ID_IMAGE, 16);
    memcpy(&message.guest_svn, sev->id_block + ID_SVN, 4);
    memcpy(message.id_key_digest, sev->id_key_digest, 48);
    memcpy(message.author_key_digest, sev->author_key_digest, 48);
    memcpy(message.report_id, sev->report_id, 32);
    return transfer(&message, sizeof(message), true, errp);
}

static bool channel_open(const SevGuest *sev, Error **errp)
{
    if (channel) {
        return true;
    }
    channel = qio_channel_socket_new();
    if (qio_channel_socket_connect_sync(channel, sev->request_address,
                                        errp) < 0) {
        return false;
    }
    channel_deadline(channel->fd);
    return send_launch(sev, errp);
}

static bool ask(const SevGuest *sev, RequestMessage *message, Error **errp)
{
    if (!channel_open(sev, errp)
        || !transfer(message, sizeof(*message), true, errp)
        || !transfer(message, sizeof(*message), false, errp)) {
        return false;
    }
    if (be32_to_cpu(message->length_be) != sizeof(*message) - 4
        || le32_to_cpu(message->type) != MESSAGE_ANSWER) {
        error_setg(errp, "its answer is malformed");
        return false;
    }
    return true;
}

/* Who is connected has been told of a launch that is over. */
void sev_request_launch(SevGuest *sev)
{
    QEMU_LOCK_GUARD(&channel_lock);
    channel_close();
}

static uint64_t answer(SevExit *exit, const uint8_t *request,
                       uint8_t *response)
{
    g_autofree RequestMessage *message = g_new0(RequestMessage, 1);
    Error *err = NULL;

    message->length_be = cpu_to_be32(sizeof(*message) - 4);
    message->type = cpu_to_le32(MESSAGE_REQUEST);
    memcpy(message->page, request, RMEM_PAGE_SIZE);
    QEMU_LOCK_GUARD(&channel_lock);
    if (!ask(exit->sev, message, &err)) {
        error_prepend(&err, "guest request: ");
        warn_report_err(err);
        channel_close();
        return VMM_ERROR_GENERIC;
    }
    if (!message->status) {
        memcpy(response, message->page, RMEM_PAGE_SIZE);
    }
    return le32_to_cpu(message->status);
}

/*
 * There are no certificates: an empty table of them, as KVM writes it. RAX:
 * buffer, RBX: its pages.
 */
static bool empty_certificates(SevExit *exit)
{
    uint64_t gpa = sev_ghcb_get(exit, GHCB_RAX);
    uint64_t pages = sev_ghcb_get(exit, GHCB_RBX);
    uint8_t *table;

    if (!sev_ghcb_has(exit, GHCB_RAX) || !sev_ghcb_has(exit, GHCB_RBX)) {
        sev_malformed(exit, GHCB_MISSING_INPUT);
        return false;
    }
    if (!pages) {
        return true;
    }
    table = restricted_ram(exit->sev->rm, gpa, RMEM_PAGE_SIZE, RMEM_SHARED);
    if (!table || gpa & ~TARGET_PAGE_MASK) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return false;
    }
    memset(table, 0, 24);
    return true;
}

/* INFO1: request page, INFO2: response page. */
void sev_request(SevExit *exit, bool extended)
{
    RestrictedMemory *rm = exit->sev->rm;
    uint8_t *request = restricted_ram(rm, exit->info1, RMEM_PAGE_SIZE,
                                      RMEM_SHARED);
    uint8_t *response = restricted_ram(rm, exit->info2, RMEM_PAGE_SIZE,
                                       RMEM_SHARED);

    if ((exit->info1 | exit->info2) & ~TARGET_PAGE_MASK || !request
        || !response || request == response) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return;
    }
    if (extended && !empty_certificates(exit)) {
        return;
    }
    exit->out2 = exit->sev->request_address
                 ? answer(exit, request, response) : VMM_ERROR_GENERIC;
    trace_rmem_sev_request(exit->cpu->cpu_index, extended, exit->out2);
}
