/*
 * TDX: GetQuote, answered over a socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCI defines the guest's buffer, "TDG.VP.VMCALL<GetQuote>". The socket has
 * the protocol of Intel's quote generation service (qgs_msg_lib.h of
 * SGXDataCenterAttestationPrimitives). The quote is written into the buffer when
 * it arrives, unless the guest has made the buffer private or was reset
 * meanwhile. Number and time of requests are those of QEMU with KVM
 * (target/i386/kvm/tdx.c, tdx-quote-generator.c).
 */

#include "qemu/osdep.h"
#include "hw/i386/apic_internal.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/connect.h"
#include "hw/restricted-memory/profiles/service.h"
#include "hw/restricted-memory/profiles/tdx/call.h"
#include "hw/restricted-memory/profiles/tdx/quote.h"

#define QUOTE_VERSION       1
#define QUOTE_SUCCESS       UINT64_C(0)
#define QUOTE_IN_FLIGHT     UINT64_MAX
#define QUOTE_ERROR         UINT64_C(0x8000000000000000)
#define QUOTE_UNAVAILABLE   UINT64_C(0x8000000000000001)
#define QUOTE_MAX_BUFFER    (128 * 1024)
#define QUOTES_MAX          16
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
    uint32_t length;                    /* big-endian: bytes that follow */
    QgsHeader header;
    uint32_t report_size, id_list_size;
    uint8_t report[QUOTE_REPORT_BYTES];
} QgsRequest;

typedef struct QEMU_PACKED QgsResponse {
    QgsHeader header;
    uint32_t id_size, quote_size;
} QgsResponse;

struct TdxQuote {
    TdxGuest *tdx;
    RestrictedService *service;
    uint64_t gpa, size;
    QLIST_ENTRY(TdxQuote) next;
};

/* The guest's buffer; NULL unless all of it is shared. */
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

static void quote_free(TdxQuote *quote)
{
    QLIST_REMOVE(quote, next);
    qatomic_dec(&quote->tdx->quotes_in_flight);
    restricted_service_free(quote->service);
    g_free(quote);
}

/* The quote in an answer; NULL if it is something else. */
static const uint8_t *find_quote(const TdxQuote *quote,
                                 const RestrictedFrame *frame, uint32_t *size)
{
    QgsResponse response;
    uint64_t id_size;

    if (frame->size < sizeof(response)) {
        return NULL;
    }
    memcpy(&response, frame->data, sizeof(response));
    id_size = le32_to_cpu(response.id_size);
    *size = le32_to_cpu(response.quote_size);
    if (le32_to_cpu(response.header.type) != QGS_GET_QUOTE_RESPONSE
        || response.header.error
        || id_size + *size + sizeof(response) != frame->size
        || *size > quote->size - sizeof(QuoteHeader)) {
        return NULL;
    }
    return frame->data + sizeof(response) + id_size;
}

/* Main thread. */
static void quote_done(void *opaque, const RestrictedFrame *frame,
                       bool was_connected)
{
    TdxQuote *quote = opaque;
    uint64_t status = was_connected ? QUOTE_ERROR : QUOTE_UNAVAILABLE;
    const uint8_t *found = NULL;
    uint32_t size = 0;
    uint8_t *buffer = NULL;

    if (frame) {
        found = find_quote(quote, frame, &size);
        if (!found) {
            size = 0;
            warn_report("quote generation service: a refusal, or a malformed "
                        "answer");
        }
    }
    /* A vCPU may be about to make the buffer private. */
    WITH_RESTRICTED_LOCK(&quote->tdx->rm->lock) {
        buffer = quote_buffer(quote->tdx, quote->gpa, quote->size);
        if (buffer && found) {
            memcpy(buffer + sizeof(QuoteHeader), found, size);
            status = QUOTE_SUCCESS;
        }
        if (buffer) {
            quote_status(buffer, status, size);
        }
    }
    if (buffer) {
        quote_notify(quote->tdx);
    }
    quote_free(quote);
}

static void quote_ask(TdxQuote *quote, const uint8_t *report)
{
    QgsRequest request = {
        .length = cpu_to_be32(sizeof(request) - sizeof(request.length)),
        .header = {
            .major = cpu_to_le16(1),
            .type = cpu_to_le32(QGS_GET_QUOTE_REQUEST),
            .size = cpu_to_le32(sizeof(request) - sizeof(request.length)),
        },
        .report_size = cpu_to_le32(QUOTE_REPORT_BYTES),
    };

    memcpy(request.report, report, QUOTE_REPORT_BYTES);
    restricted_service_ask(quote->service, &request, sizeof(request),
                           quote_done, quote);
}

/* BQL. */
static uint64_t quote_begin(TdxGuest *tdx, uint64_t gpa, uint64_t size,
                            uint8_t *buffer)
{
    TdxQuote *quote;

    if (tdx->quotes_in_flight >= QUOTES_MAX) {
        return TDX_VMCALL_RETRY;
    }
    if (!tdx->quote_address || restricted_connect_threads() >= QUOTES_MAX) {
        quote_status(buffer, QUOTE_UNAVAILABLE, 0);
        return TDX_VMCALL_SUCCESS;
    }
    quote = g_new0(TdxQuote, 1);
    quote->tdx = tdx;
    quote->gpa = gpa;
    quote->size = size;
    quote->service = restricted_service_new("quote generation service",
                                            tdx->quote_address,
                                            tdx->quote_timeout,
                                            QUOTE_MAX_BUFFER);
    QLIST_INSERT_HEAD(&tdx->quotes, quote, next);
    qatomic_inc(&tdx->quotes_in_flight);
    quote_status(buffer, QUOTE_IN_FLIGHT, 0);
    quote_ask(quote, buffer + sizeof(QuoteHeader));
    return TDX_VMCALL_SUCCESS;
}

void tdx_forget_quotes(TdxGuest *tdx)
{
    TdxQuote *quote, *next;

    QLIST_FOREACH_SAFE(quote, &tdx->quotes, next, next) {
        quote_free(quote);
    }
}

void tdx_forget_requests(RestrictedMemory *rm)
{
    tdx_forget_quotes(tdx_guest());
}

uint64_t tdx_get_quote(TdxGuest *tdx, uint64_t gpa, uint64_t size)
{
    uint8_t *buffer = quote_buffer(tdx, gpa, size);
    QuoteHeader header;

    if (!buffer) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    memcpy(&header, buffer, sizeof(header));
    if (le64_to_cpu(header.version) != QUOTE_VERSION
        || le32_to_cpu(header.in_size) > size - sizeof(header)) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    if (le32_to_cpu(header.in_size) != QUOTE_REPORT_BYTES) {
        quote_status(buffer, QUOTE_ERROR, 0);
        return TDX_VMCALL_SUCCESS;
    }
    BQL_LOCK_GUARD();
    return quote_begin(tdx, gpa, size, buffer);
}
