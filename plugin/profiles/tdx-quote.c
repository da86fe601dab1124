/*
 * TDX: GetQuote, answered over a socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guest's buffer is GHCI's, "TDG.VP.VMCALL<GetQuote>"; on the socket is
 * the protocol of Intel's quote generation service (qgs_msg_lib.h of
 * SGXDataCenterAttestationPrimitives), each message after its length, four
 * bytes, big-endian. The quote is written into the buffer when it is there,
 * unless the guest has taken the buffer back or was reset meanwhile.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "block/aio.h"
#include "exec/address-spaces.h"
#include "hw/i386/apic_internal.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "tdx.h"

#define QUOTE_VERSION       1
#define QUOTE_SUCCESS       UINT64_C(0)
#define QUOTE_IN_FLIGHT     UINT64_MAX
#define QUOTE_ERROR         UINT64_C(0x8000000000000000)
#define QUOTE_UNAVAILABLE   UINT64_C(0x8000000000000001)
#define QUOTE_MAX_BUFFER    (128 * 1024)
#define QUOTE_REPORT_BYTES  1024

typedef struct QEMU_PACKED QuoteHeader {
    uint64_t version, status;
    uint32_t in_size, out_size;
} QuoteHeader;

enum { QGS_GET_QUOTE_REQUEST, QGS_GET_QUOTE_RESPONSE };

typedef struct QEMU_PACKED QgsHeader {
    uint16_t major, minor;
    uint32_t type, size, error;
} QgsHeader;

typedef struct QEMU_PACKED QgsRequest {
    uint32_t frame;                     /* big-endian: bytes that follow */
    QgsHeader header;
    uint32_t report_size, id_list_size;
    uint8_t report[QUOTE_REPORT_BYTES];
} QgsRequest;

typedef struct QEMU_PACKED QgsResponse {
    QgsHeader header;
    uint32_t id_size, quote_size;
} QgsResponse;

typedef struct TdxQuote {
    TdxGuest *tdx;
    SocketAddress *address;
    uint64_t gpa, size;
    uint64_t resets;
    uint8_t report[QUOTE_REPORT_BYTES];
    char *quote;
    uint32_t quote_size;
    uint64_t status;
} TdxQuote;

/* The buffer in shared memory, NULL if not all of it is shared. */
static uint8_t *quote_buffer(TdxGuest *tdx, uint64_t gpa, uint64_t size)
{
    return size <= QUOTE_MAX_BUFFER
           ? restricted_ram(tdx->rm, gpa, size, RMEM_SHARED) : NULL;
}

static void quote_status(uint8_t *buffer, uint64_t status, uint32_t out_size)
{
    stl_le_p(buffer + offsetof(QuoteHeader, out_size), out_size);
    smp_wmb();                          /* the guest polls for the status */
    stq_le_p(buffer + offsetof(QuoteHeader, status), status);
}

static void quote_notify(TdxGuest *tdx)
{
    uint32_t vector = qatomic_read(&tdx->notify_vector);

    if (vector) {
        address_space_stl_le(&address_space_memory, APIC_DEFAULT_ADDRESS
                             | (hwaddr)tdx->notify_apic << 12, vector,
                             MEMTXATTRS_UNSPECIFIED, NULL);
    }
}

static uint64_t counter(TdxGuest *tdx, RmemCounter index)
{
    return qatomic_read(&tdx->rm->core.shared->counters[index]);
}

/* Main thread. */
static void quote_done(void *opaque)
{
    TdxQuote *quote = opaque;
    TdxGuest *tdx = quote->tdx;
    uint8_t *buffer = quote_buffer(tdx, quote->gpa, quote->size);

    if (buffer && quote->resets == counter(tdx, RMEM_C_RESETS)) {
        if (quote->status == QUOTE_SUCCESS) {
            memcpy(buffer + sizeof(QuoteHeader), quote->quote,
                   quote->quote_size);
        }
        quote_status(buffer, quote->status, quote->quote_size);
        quote_notify(tdx);
    }
    qatomic_dec(&tdx->quotes_in_flight);
    qapi_free_SocketAddress(quote->address);
    g_free(quote->quote);
    g_free(quote);
}

static bool quote_send(TdxQuote *quote, QIOChannel *ioc, Error **errp)
{
    QgsRequest request = {
        .frame = cpu_to_be32(sizeof(request) - sizeof(request.frame)),
        .header = {
            .major = cpu_to_le16(1),
            .type = cpu_to_le32(QGS_GET_QUOTE_REQUEST),
            .size = cpu_to_le32(sizeof(request) - sizeof(request.frame)),
        },
        .report_size = cpu_to_le32(QUOTE_REPORT_BYTES),
    };

    memcpy(request.report, quote->report, QUOTE_REPORT_BYTES);
    return qio_channel_write_all(ioc, (char *)&request, sizeof(request),
                                 errp) == 0;
}

static bool quote_receive(TdxQuote *quote, QIOChannel *ioc, Error **errp)
{
    uint32_t frame, id_size, size;
    QgsResponse response;
    g_autofree char *id = NULL;

    if (qio_channel_read_all(ioc, (char *)&frame, sizeof(frame), errp) < 0
        || qio_channel_read_all(ioc, (char *)&response, sizeof(response),
                                errp) < 0) {
        return false;
    }
    frame = be32_to_cpu(frame);
    id_size = le32_to_cpu(response.id_size);
    size = le32_to_cpu(response.quote_size);
    if (le32_to_cpu(response.header.type) != QGS_GET_QUOTE_RESPONSE
        || response.header.error || frame > QUOTE_MAX_BUFFER
        || (uint64_t)id_size + size + sizeof(response) != frame
        || size > quote->size - sizeof(QuoteHeader)) {
        error_setg(errp, "quote generation service: it refuses, or its "
                   "answer is malformed");
        return false;
    }
    id = g_malloc(id_size);
    quote->quote = g_malloc(size);
    quote->quote_size = size;
    return (!id_size || qio_channel_read_all(ioc, id, id_size, errp) == 0)
           && qio_channel_read_all(ioc, quote->quote, size, errp) == 0;
}

/* A thread of its own: the service may take its time. */
static void *quote_thread(void *opaque)
{
    TdxQuote *quote = opaque;
    g_autoptr(QIOChannelSocket) ioc = qio_channel_socket_new();
    Error *err = NULL;

    quote->status = QUOTE_UNAVAILABLE;
    if (qio_channel_socket_connect_sync(ioc, quote->address, &err) == 0) {
        quote->status = QUOTE_ERROR;
        if (quote_send(quote, QIO_CHANNEL(ioc), &err)
            && quote_receive(quote, QIO_CHANNEL(ioc), &err)) {
            quote->status = QUOTE_SUCCESS;
        }
    }
    if (err) {
        quote->quote_size = 0;
        warn_report_err(err);
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), quote_done, quote);
    return NULL;
}

bool tdx_get_quote(TdxGuest *tdx, uint64_t gpa, uint64_t size)
{
    uint8_t *buffer = quote_buffer(tdx, gpa, size);
    QuoteHeader header;
    TdxQuote *quote;
    QemuThread thread;

    if (!buffer) {
        return false;
    }
    memcpy(&header, buffer, sizeof(header));
    if (le64_to_cpu(header.version) != QUOTE_VERSION
        || le32_to_cpu(header.in_size) > size - sizeof(header)) {
        return false;
    }
    if (le32_to_cpu(header.in_size) != QUOTE_REPORT_BYTES) {
        quote_status(buffer, QUOTE_ERROR, 0);
        return true;
    }
    if (!tdx->quote_address) {
        quote_status(buffer, QUOTE_UNAVAILABLE, 0);
        return true;
    }
    quote = g_new0(TdxQuote, 1);
    quote->tdx = tdx;
    quote->address = QAPI_CLONE(SocketAddress, tdx->quote_address);
    quote->gpa = gpa;
    quote->size = size;
    quote->resets = counter(tdx, RMEM_C_RESETS);
    memcpy(quote->report, buffer + sizeof(header), QUOTE_REPORT_BYTES);
    quote_status(buffer, QUOTE_IN_FLIGHT, 0);
    qatomic_inc(&tdx->quotes_in_flight);
    qemu_thread_create(&thread, "tdx-quote", quote_thread, quote,
                       QEMU_THREAD_DETACHED);
    return true;
}
