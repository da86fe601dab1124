/*
 * A service behind a socket, which plays a part of the host's hardware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "io/channel-socket.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "hw/restricted-memory/profiles/connect.h"
#include "hw/restricted-memory/profiles/service.h"
#include "hw/restricted-memory/qemu/recording.h"

#define FRAME_BYTES 4
#define MAX_TIMEOUT_S 3600
#define REPORT_INTERVAL_MS 1000

typedef struct Exchange {
    GByteArray *message;
    int64_t end_ms;
    RestrictedAnswer *answer;
    void *opaque;
    QSIMPLEQ_ENTRY(Exchange) next;
} Exchange;

struct RestrictedService {
    const char *name;
    SocketAddress *address;
    unsigned deadline_s;
    uint32_t max_answer;
    GByteArray *hello;
    QSIMPLEQ_HEAD(, Exchange) exchanges;    /* the first is at work */
    QEMUTimer *timer;                       /* its deadline */
    QEMUBH *bh;                             /* starts it in the main thread */
    RestrictedAttempt *attempt;
    QIOChannel *channel;                    /* NULL: not connected */
    bool greeted;                           /* hello was sent */
    guint watch;                            /* 0: none */
    GByteArray *out, *in;                   /* NULL: the exchange is to begin */
    size_t sent, received;
};

static void service_go(void *opaque);

static void disconnect(RestrictedService *service)
{
    if (service->attempt) {
        restricted_connect_cancel(service->attempt);
        service->attempt = NULL;
    }
    if (service->watch) {
        g_source_remove(service->watch);
        service->watch = 0;
    }
    if (service->channel) {
        qio_channel_close(service->channel, NULL);
        g_clear_pointer(&service->channel, object_unref);
    }
    g_clear_pointer(&service->out, g_byte_array_unref);
    g_clear_pointer(&service->in, g_byte_array_unref);
    service->greeted = false;
}

static void exchange_free(Exchange *exchange)
{
    g_byte_array_unref(exchange->message);
    g_free(exchange);
}

/* What the answer says goes into the log of a recording, or comes from there. */
static void answer_in_the_log(const RestrictedFrame **frame,
                              RestrictedFrame *logged, bool *was_connected,
                              GByteArray **bytes)
{
    uint8_t head[] = { *was_connected, *frame != NULL };

    *bytes = g_byte_array_append(g_byte_array_new(), head, sizeof(head));
    if (*frame) {
        g_byte_array_append(*bytes, (*frame)->data, (*frame)->size);
    }
    restricted_input(bytes);
    *was_connected = (*bytes)->data[0];
    *logged = (RestrictedFrame){ (*bytes)->data + sizeof(head),
                                 (*bytes)->len - sizeof(head) };
    *frame = (*bytes)->data[1] ? logged : NULL;
}

/* The first exchange has its answer, or has failed (NULL). */
static void finish(RestrictedService *service, const RestrictedFrame *frame,
                   bool was_connected)
{
    Exchange *exchange = QSIMPLEQ_FIRST(&service->exchanges);
    RestrictedAnswer *answer = exchange->answer;
    void *opaque = exchange->opaque;
    g_autoptr(GByteArray) bytes = NULL;
    RestrictedFrame logged;

    if (restricted_is_recorded()) {
        answer_in_the_log(&frame, &logged, &was_connected, &bytes);
    }
    QSIMPLEQ_REMOVE_HEAD(&service->exchanges, next);
    exchange_free(exchange);
    timer_del(service->timer);
    qemu_bh_schedule(service->bh);
    answer(opaque, frame, was_connected);   /* it may free the service */
}

/* A guest can ask as often as it likes: say why it gets nothing now and then. */
static void report(const RestrictedService *service, Error *err)
{
    static int64_t next_ms;
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (now_ms < next_ms) {
        error_free(err);
        return;
    }
    next_ms = now_ms + REPORT_INTERVAL_MS;
    error_prepend(&err, "%s: ", service->name);
    warn_report_err(err);
}

static void fail(RestrictedService *service, Error *err)
{
    bool was_connected = service->channel != NULL;

    report(service, err);
    disconnect(service);
    finish(service, NULL, was_connected);
}

static void deadline_passed(void *opaque)
{
    RestrictedService *service = opaque;
    Error *err = NULL;

    error_setg(&err, "no answer within %u s", service->deadline_s);
    fail(service, err);
}

/* True: the message is out. */
static bool send_rest(RestrictedService *service, Error **errp)
{
    while (service->sent < service->out->len) {
        ssize_t n = qio_channel_write(service->channel,
                                      (char *)service->out->data
                                      + service->sent,
                                      service->out->len - service->sent, errp);

        if (n < 0) {
            return false;
        }
        service->sent += n;
    }
    return true;
}

/* How much is to be received, as far as is known. */
static size_t expected(const RestrictedService *service)
{
    return service->received < FRAME_BYTES
           ? FRAME_BYTES : FRAME_BYTES + (size_t)ldl_be_p(service->in->data);
}

/* True: a whole message is in. */
static bool receive_rest(RestrictedService *service, Error **errp)
{
    while (service->received < expected(service)) {
        size_t want = expected(service);
        ssize_t n;

        if (want - FRAME_BYTES > service->max_answer) {
            error_setg(errp, "its answer has %zu bytes, and %u is the most",
                       want - FRAME_BYTES, service->max_answer);
            return false;
        }
        g_byte_array_set_size(service->in, want);
        n = qio_channel_read(service->channel,
                             (char *)service->in->data + service->received,
                             want - service->received, errp);
        if (n == 0) {
            error_setg(errp, "it has closed the connection");
        }
        if (n <= 0) {
            return false;
        }
        service->received += n;
    }
    return true;
}

static void receive_done(RestrictedService *service)
{
    g_autoptr(GByteArray) in = g_steal_pointer(&service->in);
    RestrictedFrame frame = { in->data + FRAME_BYTES, in->len - FRAME_BYTES };

    g_clear_pointer(&service->out, g_byte_array_unref);
    finish(service, &frame, true);
}

static gboolean ready(QIOChannel *channel, GIOCondition condition, void *opaque)
{
    RestrictedService *service = opaque;

    service->watch = 0;
    service_go(service);
    return G_SOURCE_REMOVE;
}

static void await(RestrictedService *service, GIOCondition condition)
{
    service->watch = qio_channel_add_watch(service->channel, condition, ready,
                                           service, NULL);
}

/* Connected: send and receive as far as that goes without waiting. */
static void transfer(RestrictedService *service)
{
    Error *err = NULL;

    if (!send_rest(service, &err)) {
        err ? fail(service, err) : await(service, G_IO_OUT);
    } else if (receive_rest(service, &err)) {
        receive_done(service);
    } else {
        err ? fail(service, err) : await(service, G_IO_IN);
    }
}

static void connected(void *opaque, QIOChannel *channel, Error *err)
{
    RestrictedService *service = opaque;

    service->attempt = NULL;
    if (!channel) {
        fail(service, err);
        return;
    }
    service->channel = channel;
    qio_channel_set_blocking(channel, false, NULL);
    service_go(service);
}

static void begin(RestrictedService *service, const Exchange *exchange)
{
    service->out = g_byte_array_new();
    service->in = g_byte_array_new();
    service->sent = service->received = 0;
    if (service->hello && !service->greeted) {
        g_byte_array_append(service->out, service->hello->data,
                            service->hello->len);
    }
    service->greeted = true;
    g_byte_array_append(service->out, exchange->message->data,
                        exchange->message->len);
}

/* Go on with the first exchange, if there is one. */
static void service_go(void *opaque)
{
    RestrictedService *service = opaque;
    Exchange *exchange = QSIMPLEQ_FIRST(&service->exchanges);

    if (!exchange || service->attempt || service->watch) {
        return;
    }
    timer_mod(service->timer, exchange->end_ms);
    if (!service->channel) {
        service->attempt = restricted_connect(service->address,
                                              exchange->end_ms, connected,
                                              service);
        return;
    }
    if (!service->out) {
        begin(service, exchange);
    }
    transfer(service);
}

static bool connect_now(RestrictedService *service, Error **errp)
{
    QIOChannelSocket *channel;

    if (service->channel) {
        return true;
    }
    channel = qio_channel_socket_new();
    if (qio_channel_socket_connect_sync(channel, service->address, errp) < 0) {
        object_unref(channel);
        return false;
    }
    service->channel = QIO_CHANNEL(channel);
    qio_channel_set_blocking(service->channel, false, NULL);
    return true;
}

static bool wait_now(const RestrictedService *service, int64_t end_ms,
                     Error **errp)
{
    GPollFD poll = {
        .fd = QIO_CHANNEL_SOCKET(service->channel)->fd,
        .events = service->sent < service->out->len ? G_IO_OUT : G_IO_IN,
    };
    int64_t left_ms = end_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    if (left_ms <= 0 || g_poll(&poll, 1, left_ms) == 0) {
        error_setg(errp, "no answer within %u s", service->deadline_s);
        return false;
    }
    return true;
}

/*
 * The same without the main loop. A recorded guest gets its answer within the
 * instruction that asks: when it comes is no part of the log.
 */
static void service_go_now(RestrictedService *service)
{
    const Exchange *exchange = QSIMPLEQ_FIRST(&service->exchanges);
    Error *err = NULL;

    if (restricted_is_replayed()) {
        finish(service, NULL, false);
        return;
    }
    if (!connect_now(service, &err)) {
        fail(service, err);
        return;
    }
    begin(service, exchange);
    while (!send_rest(service, &err) || !receive_rest(service, &err)) {
        if (err || !wait_now(service, exchange->end_ms, &err)) {
            fail(service, err);
            return;
        }
    }
    receive_done(service);
}

RestrictedService *restricted_service_new(const char *name,
                                          const SocketAddress *address,
                                          unsigned deadline_s,
                                          uint32_t max_answer)
{
    RestrictedService *service = g_new0(RestrictedService, 1);

    service->name = name;
    service->address = QAPI_CLONE(SocketAddress, address);
    service->deadline_s = deadline_s;
    service->max_answer = max_answer;
    service->timer = timer_new_ms(QEMU_CLOCK_REALTIME, deadline_passed,
                                  service);
    service->bh = qemu_bh_new(service_go, service);
    QSIMPLEQ_INIT(&service->exchanges);
    return service;
}

void restricted_service_hello(RestrictedService *service, const void *hello,
                              size_t size)
{
    g_clear_pointer(&service->hello, g_byte_array_unref);
    service->hello = g_byte_array_append(g_byte_array_new(), hello, size);
}

void restricted_service_ask(RestrictedService *service, const void *message,
                            size_t size, RestrictedAnswer *answer,
                            void *opaque)
{
    Exchange *exchange = g_new0(Exchange, 1);

    exchange->message = g_byte_array_append(g_byte_array_new(), message, size);
    exchange->end_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME)
                       + service->deadline_s * INT64_C(1000);
    exchange->answer = answer;
    exchange->opaque = opaque;
    QSIMPLEQ_INSERT_TAIL(&service->exchanges, exchange, next);
    if (restricted_is_recorded()) {
        service_go_now(service);
    } else {
        qemu_bh_schedule(service->bh);
    }
}

void restricted_service_reset(RestrictedService *service)
{
    Exchange *exchange;

    disconnect(service);
    timer_del(service->timer);
    while ((exchange = QSIMPLEQ_FIRST(&service->exchanges))) {
        QSIMPLEQ_REMOVE_HEAD(&service->exchanges, next);
        exchange_free(exchange);
    }
}

void restricted_service_free(RestrictedService *service)
{
    restricted_service_reset(service);
    qemu_bh_delete(service->bh);
    timer_free(service->timer);
    g_clear_pointer(&service->hello, g_byte_array_unref);
    qapi_free_SocketAddress(service->address);
    g_free(service);
}

void restricted_visit_socket(Visitor *v, const char *name,
                             SocketAddress *address, Error **errp)
{
    if (!address) {
        error_setg(errp, "%s is not set", name);
        return;
    }
    visit_type_SocketAddress(v, name, &address, errp);
}

void restricted_take_socket(Visitor *v, const char *name,
                            SocketAddress **address, Error **errp)
{
    SocketAddress *taken = NULL;

    if (visit_type_SocketAddress(v, name, &taken, errp)) {
        qapi_free_SocketAddress(*address);
        *address = taken;
    }
}

bool restricted_check_timeout(const char *name, uint32_t seconds, Error **errp)
{
    if (seconds && seconds <= MAX_TIMEOUT_S) {
        return true;
    }
    error_setg(errp, "%s=%u: must be between 1 and %u seconds", name, seconds,
               MAX_TIMEOUT_S);
    return false;
}
