/*
 * Connecting to a socket in a thread.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "io/channel-socket.h"
#include "io/task.h"
#include "hw/restricted-memory/profiles/connect.h"

struct RestrictedAttempt {
    SocketAddress *address;
    int64_t end_ms;
    RestrictedConnected *connected;     /* NULL: cancelled */
    void *opaque;
    int fd;
};

static unsigned threads;                /* BQL */

unsigned restricted_connect_threads(void)
{
    return threads;
}

/* A listening socket whose queue is full blocks for as long as it is full. */
static int connect_unix(const char *path, int64_t end_ms, Error **errp)
{
    int64_t left = MAX(end_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME), 1);
    struct timeval patience = { left / 1000, left % 1000 * 1000 };
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    int fd;

    if (g_strlcpy(to.sun_path, path, sizeof(to.sun_path))
        >= sizeof(to.sun_path)) {
        error_setg(errp, "socket path '%s' is too long", path);
        return -1;
    }
    fd = qemu_socket(PF_UNIX, SOCK_STREAM, 0);
    if (fd < 0
        || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience,
                      sizeof(patience)) < 0
        || RETRY_ON_EINTR(connect(fd, (struct sockaddr *)&to,
                                  sizeof(to))) < 0) {
        error_setg_errno(errp, errno, "cannot connect to '%s'", path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static int connect_until(SocketAddress *address, int64_t end_ms, Error **errp)
{
    bool plain = address->type == SOCKET_ADDRESS_TYPE_UNIX
                 && !(address->u.q_unix.has_abstract
                      && address->u.q_unix.abstract);

    return plain ? connect_unix(address->u.q_unix.path, end_ms, errp)
                 : socket_connect(address, errp);
}

static void worker(QIOTask *task, void *opaque)
{
    RestrictedAttempt *attempt = opaque;
    Error *err = NULL;

    attempt->fd = connect_until(attempt->address, attempt->end_ms, &err);
    qio_task_set_error(task, err);
}

static QIOChannel *channel_of(int *fd, Error **errp)
{
    QIOChannelSocket *channel = qio_channel_socket_new_fd(*fd, errp);

    if (!channel) {
        return NULL;
    }
    *fd = -1;
    return QIO_CHANNEL(channel);
}

static void attempt_free(void *opaque)
{
    RestrictedAttempt *attempt = opaque;

    if (attempt->fd >= 0) {
        close(attempt->fd);
    }
    qapi_free_SocketAddress(attempt->address);
    g_free(attempt);
}

static void ended(QIOTask *task, void *opaque)
{
    RestrictedAttempt *attempt = opaque;
    QIOChannel *channel = NULL;
    Error *err = NULL;

    threads--;
    if (!attempt->connected) {
        return;
    }
    if (!qio_task_propagate_error(task, &err)) {
        channel = channel_of(&attempt->fd, &err);
    }
    attempt->connected(attempt->opaque, channel, err);
}

QIOChannel *restricted_connect_now(SocketAddress *address, int64_t end_ms,
                                   Error **errp)
{
    int fd = connect_until(address, end_ms, errp);
    QIOChannel *channel;

    if (fd < 0) {
        return NULL;
    }
    channel = channel_of(&fd, errp);
    if (fd >= 0) {
        close(fd);
    }
    return channel;
}

RestrictedAttempt *restricted_connect(const SocketAddress *address,
                                      int64_t end_ms,
                                      RestrictedConnected *connected,
                                      void *opaque)
{
    QIOChannelSocket *source = qio_channel_socket_new();
    RestrictedAttempt *attempt = g_new0(RestrictedAttempt, 1);

    attempt->address = QAPI_CLONE(SocketAddress, address);
    attempt->end_ms = end_ms;
    attempt->connected = connected;
    attempt->opaque = opaque;
    attempt->fd = -1;
    threads++;
    qio_task_run_in_thread(qio_task_new(OBJECT(source), ended, attempt,
                                        attempt_free),
                           worker, attempt, NULL, NULL);
    object_unref(source);               /* the task has a reference */
    return attempt;
}

void restricted_connect_cancel(RestrictedAttempt *attempt)
{
    attempt->connected = NULL;
}
