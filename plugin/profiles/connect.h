/*
 * Connecting to a socket in a thread, because names are looked up and some
 * sockets block.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CONNECT_H
#define HW_RESTRICTED_MEMORY_PROFILES_CONNECT_H

#include "io/channel.h"
#include "qapi/qapi-types-sockets.h"

typedef struct RestrictedAttempt RestrictedAttempt;

/* In the main thread. @channel, which is the callee's, or NULL and @err. */
typedef void RestrictedConnected(void *opaque, QIOChannel *channel, Error *err);

/* Connect until @end_ms (QEMU_CLOCK_REALTIME). BQL. */
RestrictedAttempt *restricted_connect(const SocketAddress *address,
                                      int64_t end_ms,
                                      RestrictedConnected *connected,
                                      void *opaque);
/* Nobody waits for it any more: @connected is not called. BQL. */
void restricted_connect_cancel(RestrictedAttempt *attempt);

/* The same in this thread, which waits. NULL and @errp if it fails. */
QIOChannel *restricted_connect_now(SocketAddress *address, int64_t end_ms,
                                   Error **errp);

/*
 * How many threads connect now. A thread lives for as long as the kernel lets it
 * wait, which may be longer than anybody waits for it. BQL.
 */
unsigned restricted_connect_threads(void);

#endif
