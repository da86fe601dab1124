/*
 * A service behind a socket, of a guest that is recorded or replayed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "hw/restricted-memory/profiles/connect.h"
#include "hw/restricted-memory/profiles/service-parts.h"
#include "hw/restricted-memory/qemu/recording.h"

void restricted_service_log(const RestrictedFrame **frame,
                            RestrictedFrame *logged, bool *was_connected,
                            GByteArray **bytes)
{
    uint8_t head[] = { *was_connected, *frame != NULL };

    *bytes = g_byte_array_append(g_byte_array_new(), head, sizeof(head));
    if (*frame) {
        g_byte_array_append(*bytes, (*frame)->data, (*frame)->size);
    }
    restricted_input(bytes);
    if (!*bytes || (*bytes)->len < sizeof(head)) {      /* the log is input, too */
        *was_connected = false;
        *frame = NULL;
        return;
    }
    *was_connected = (*bytes)->data[0];
    *logged = (RestrictedFrame){ (*bytes)->data + sizeof(head),
                                 (*bytes)->len - sizeof(head) };
    *frame = (*bytes)->data[1] ? logged : NULL;
}

static bool connect_now(RestrictedService *service, int64_t end_ms,
                        Error **errp)
{
    if (service->channel) {
        return true;
    }
    service->channel = restricted_connect_now(service->address, end_ms, errp);
    if (!service->channel) {
        return false;
    }
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

void restricted_service_go_now(RestrictedService *service)
{
    const Exchange *exchange = QSIMPLEQ_FIRST(&service->exchanges);
    Error *err = NULL;

    if (restricted_is_replayed()) {
        restricted_service_finish(service, NULL, false);
        return;
    }
    if (!connect_now(service, exchange->end_ms, &err)) {
        restricted_service_failed(service, err);
        return;
    }
    restricted_service_begin(service, exchange);
    while (!restricted_service_send(service, &err)
           || !restricted_service_receive(service, &err)) {
        if (err || !wait_now(service, exchange->end_ms, &err)) {
            restricted_service_failed(service, err);
            return;
        }
    }
    restricted_service_received(service);
}
