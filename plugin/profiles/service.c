/*
 * A service behind a socket, which plays a part of the host's hardware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "hw/restricted-memory/profiles/service-parts.h"
#include "hw/restricted-memory/qemu/recording.h"

#define MAX_TIMEOUT_S 3600
#define REPORT_INTERVAL_MS 1000

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

/* The first exchange has its answer, or has failed (NULL). */
void restricted_service_finish(RestrictedService *service,
                               const RestrictedFrame *frame,
                               bool was_connected)
{
    Exchange *exchange = QSIMPLEQ_FIRST(&service->exchanges);
    RestrictedAnswer *answer = exchange->answer;
    void *opaque = exchange->opaque;
    g_autoptr(GByteArray) bytes = NULL;
    RestrictedFrame logged;

    if (restricted_is_recorded()) {
        restricted_service_log(&frame, &logged, &was_connected, &bytes);
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

void restricted_service_failed(RestrictedService *service, Error *err)
{
    bool was_connected = service->channel != NULL;

    report(service, err);
    disconnect(service);
    restricted_service_finish(service, NULL, was_connected);
}

static void deadline_passed(void *opaque)
{
    RestrictedService *service = opaque;
    Error *err = NULL;

    error_setg(&err, "no answer within %u s", service->deadline_s);
    restricted_service_failed(service, err);
}

/* True: the message is out. */
bool restricted_service_send(RestrictedService *service, Error **errp)
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
bool restricted_service_receive(RestrictedService *service, Error **errp)
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

void restricted_service_received(RestrictedService *service)
{
    g_autoptr(GByteArray) in = g_steal_pointer(&service->in);
    RestrictedFrame frame = { in->data + FRAME_BYTES, in->len - FRAME_BYTES };

    g_clear_pointer(&service->out, g_byte_array_unref);
    restricted_service_finish(service, &frame, true);
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

    if (!restricted_service_send(service, &err)) {
        err ? restricted_service_failed(service, err) : await(service, G_IO_OUT);
    } else if (restricted_service_receive(service, &err)) {
        restricted_service_received(service);
    } else {
        err ? restricted_service_failed(service, err) : await(service, G_IO_IN);
    }
}

static void connected(void *opaque, QIOChannel *channel, Error *err)
{
    RestrictedService *service = opaque;

    service->attempt = NULL;
    if (!channel) {
        restricted_service_failed(service, err);
        return;
    }
    service->channel = channel;
    qio_channel_set_blocking(channel, false, NULL);
    service_go(service);
}

void restricted_service_begin(RestrictedService *service,
                              const Exchange *exchange)
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
        restricted_service_begin(service, exchange);
    }
    transfer(service);
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
        restricted_service_go_now(service);
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
