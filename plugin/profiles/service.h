/*
 * A service behind a socket, which plays a part of the host's hardware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Concepts:
 *  - A message has four bytes with the length of the rest, big-endian, in front.
 *  - An *exchange* is a message to the service and its answer. The exchanges of
 *    a service are done one after the other, on one connection.
 *  - Each exchange has a deadline, connecting included. A service that does not
 *    answer in time is one that failed.
 *
 * Nothing here waits: the main loop moves the bytes. All functions need the BQL,
 * and answers arrive in the main thread with it held.
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SERVICE_H
#define HW_RESTRICTED_MEMORY_PROFILES_SERVICE_H

#include "qapi/qapi-types-sockets.h"

typedef struct RestrictedService RestrictedService;

/* A message from the service, without its length. */
typedef struct RestrictedFrame {
    const uint8_t *data;
    uint32_t size;
} RestrictedFrame;

/*
 * The exchange has ended. @frame is NULL if it failed, and @was_connected says
 * how far it came. The reason has been reported.
 */
typedef void RestrictedAnswer(void *opaque, const RestrictedFrame *frame,
                              bool was_connected);

/* @name is for messages. An answer of more than @max_answer bytes is wrong. */
RestrictedService *restricted_service_new(const char *name,
                                          const SocketAddress *address,
                                          unsigned deadline_s,
                                          uint32_t max_answer);
/* A message that is sent first on each connection, and has no answer. */
void restricted_service_hello(RestrictedService *service, const void *hello,
                              size_t size);

/*
 * Send @message, its length included, and call @answer once: later, or at once if
 * the VM is recorded or replayed.
 */
void restricted_service_ask(RestrictedService *service, const void *message,
                            size_t size, RestrictedAnswer *answer,
                            void *opaque);

/* Forget all exchanges, without an answer, and close the connection. */
void restricted_service_reset(RestrictedService *service);
/* The same, and free the service; an answer may do it, too. */
void restricted_service_free(RestrictedService *service);

/* The getter and the setter of a property that is the address of a service. */
void restricted_visit_socket(Visitor *v, const char *name,
                             SocketAddress *address, Error **errp);
void restricted_take_socket(Visitor *v, const char *name,
                            SocketAddress **address, Error **errp);
/* False and @errp: this is no number of seconds to wait for an answer. */
bool restricted_check_timeout(const char *name, uint32_t seconds, Error **errp);

#endif
