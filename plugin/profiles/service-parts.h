/*
 * A service behind a socket: what its two ways to exchange messages share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SERVICE_PARTS_H
#define HW_RESTRICTED_MEMORY_PROFILES_SERVICE_PARTS_H

#include "io/channel.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "hw/restricted-memory/profiles/connect.h"
#include "hw/restricted-memory/profiles/service.h"

#define FRAME_BYTES 4

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

/* Connected: prepare the first exchange. */
void restricted_service_begin(RestrictedService *service,
                              const Exchange *exchange);
/* True: the message is out, or a whole one is in. False without @errp: wait. */
bool restricted_service_send(RestrictedService *service, Error **errp);
bool restricted_service_receive(RestrictedService *service, Error **errp);
/* The first exchange has ended. */
void restricted_service_received(RestrictedService *service);
void restricted_service_failed(RestrictedService *service, Error *err);
void restricted_service_finish(RestrictedService *service,
                               const RestrictedFrame *frame,
                               bool was_connected);

/*
 * Do the first exchange without the main loop. A recorded guest gets its answer
 * within the instruction that asks: when it comes is no part of the log.
 */
void restricted_service_go_now(RestrictedService *service);
/* What the answer says goes into the log of a recording, or comes from there. */
void restricted_service_log(const RestrictedFrame **frame,
                            RestrictedFrame *logged, bool *was_connected,
                            GByteArray **bytes);

#endif
