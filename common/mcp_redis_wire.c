/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport below mcp_redis.c. Nothing here waits; whoever calls polls the descriptor against
 * one deadline for everything it wants.
 */
#include "mcp_redis_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mcp_value.h"

#define READ_SIZE 16384
#define MAX_REPLY ((size_t)64 * 1024 * 1024)
/* What hiredis makes room for, and clears again, before any of it has come. */
#define MAX_ELEMENTS (1024 * 1024)

#if HIREDIS_MAJOR >= 1
typedef size_t elements_t;
#else
typedef int elements_t;
#endif

static redisReplyObjectFunctions *usual; /* hiredis' own, the same for all readers */

static void *create_array(const redisReadTask *task, elements_t elements)
{
    return elements > MAX_ELEMENTS ? NULL : usual->createArray(task, elements);
}

static redisReader *create_reader(redisReplyObjectFunctions *functions)
{
    redisReader *reader = redisReaderCreate();

    if (reader) {
        __atomic_store_n(&usual, reader->fn, __ATOMIC_RELAXED);
        *functions = *reader->fn;
        functions->createArray = create_array;
        reader->fn = functions;
    }
    return reader;
}

static apr_status_t open_socket(int *fd, const struct sockaddr *address, socklen_t len,
                                int *connecting)
{
    int s = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (s < 0) {
        return errno;
    }
    if (address->sa_family != AF_UNIX) {
        (void)setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    *connecting = 0;
    if (connect(s, address, len) != 0) {
        int error = errno;

        /* EAGAIN, of a unix socket, says that its backlog is full: nothing will ever come. */
        if (error != EINPROGRESS) {
            close(s);
            return error == EAGAIN ? ECONNREFUSED : error;
        }
        *connecting = 1;
    }
    *fd = s;
    return APR_SUCCESS;
}

apr_status_t mcp_redis_wire_open(mcp_redis_wire_t **wire, const apr_sockaddr_t *address,
                                 const char *path)
{
    mcp_redis_wire_t *w = calloc(1, sizeof(*w));
    apr_status_t rv;

    *wire = NULL;
    if (!w) {
        return APR_ENOMEM;
    }
    if (path) {
        struct sockaddr_un un = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(un.sun_path)) {
            free(w);
            return APR_EINVAL;
        }
        memcpy(un.sun_path, path, strlen(path));
        rv = open_socket(&w->fd, (struct sockaddr *)&un, sizeof(un), &w->connecting);
    }
    else {
        rv = open_socket(&w->fd, (const struct sockaddr *)&address->sa, address->salen,
                         &w->connecting);
    }
    if (rv != APR_SUCCESS) {
        free(w);
        return rv;
    }
    w->reader = create_reader(&w->functions);
    if (!w->reader) {
        mcp_redis_wire_close(w);
        return APR_ENOMEM;
    }
    *wire = w;
    return APR_SUCCESS;
}

void mcp_redis_wire_close(mcp_redis_wire_t *wire)
{
    close(wire->fd);
    if (wire->reader) {
        redisReaderFree(wire->reader);
    }
    free(wire->out);
    free(wire);
}

static apr_status_t reserve(mcp_redis_wire_t *wire, size_t len)
{
    size_t room = wire->out_room ? wire->out_room : 1024;
    char *grown;

    if (wire->out_room - wire->out_len >= len) {
        return APR_SUCCESS;
    }
    while (room - wire->out_len < len) {
        room *= 2;
    }
    grown = realloc(wire->out, room);
    if (!grown) {
        return APR_ENOMEM;
    }
    wire->out = grown;
    wire->out_room = room;
    return APR_SUCCESS;
}

/* "*3\r\n" or "$5\r\n" */
static char *put_length(char *out, char kind, size_t length)
{
    *out++ = kind;
    out += mcp_value_decimal(out, (apr_int64_t)length);
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* As redisFormatCommandArgv(), which goes through printf() and an allocation of its own. */
apr_status_t mcp_redis_wire_append(mcp_redis_wire_t *wire, int argc, const char **argv,
                                   const size_t *argvlen)
{
    size_t most = MCP_VALUE_DECIMAL + 3;
    apr_status_t rv;
    char *out;
    int i;

    for (i = 0; i < argc; i++) {
        most += MCP_VALUE_DECIMAL + 3 + argvlen[i] + 2;
    }
    if (wire->out_sent == wire->out_len) {
        wire->out_sent = wire->out_len = 0;
        wire->received = 0;
    }
    rv = reserve(wire, most);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    out = put_length(wire->out + wire->out_len, '*', (size_t)argc);
    for (i = 0; i < argc; i++) {
        out = put_length(out, '$', argvlen[i]);
        memcpy(out, argv[i], argvlen[i]);
        out += argvlen[i];
        *out++ = '\r';
        *out++ = '\n';
    }
    wire->out_len = (size_t)(out - wire->out);
    return APR_SUCCESS;
}

static apr_status_t finish_connect(mcp_redis_wire_t *wire)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    int error = 0;
    socklen_t error_len = sizeof(error);

    if (getsockopt(wire->fd, SOL_SOCKET, SO_ERROR, &error, &error_len) != 0) {
        return errno;
    }
    if (error) {
        return error;
    }
    if (getpeername(wire->fd, (struct sockaddr *)&peer, &len) != 0) {
        return errno == ENOTCONN ? APR_EAGAIN : errno;
    }
    wire->connecting = 0;
    return APR_SUCCESS;
}

apr_status_t mcp_redis_wire_flush(mcp_redis_wire_t *wire)
{
    if (wire->connecting) {
        apr_status_t rv = finish_connect(wire);

        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    while (wire->out_sent < wire->out_len) {
        ssize_t n = send(wire->fd, wire->out + wire->out_sent, wire->out_len - wire->out_sent,
                         MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? APR_EAGAIN : errno;
        }
        wire->out_sent += (size_t)n;
    }
    return APR_SUCCESS;
}

apr_status_t mcp_redis_wire_reply(mcp_redis_wire_t *wire, redisReply **reply)
{
    char buf[READ_SIZE];

    for (;;) {
        void *found = NULL;
        ssize_t n;

        if (redisReaderGetReply(wire->reader, &found) != REDIS_OK) {
            return APR_EGENERAL;
        }
        if (found) {
            *reply = found;
            return APR_SUCCESS;
        }
        n = recv(wire->fd, buf, sizeof(buf), 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? APR_EAGAIN : errno;
        }
        if (n == 0) {
            return APR_EOF;
        }
        wire->received += (size_t)n;
        if (wire->received > MAX_REPLY
            || redisReaderFeed(wire->reader, buf, (size_t)n) != REDIS_OK) {
            return APR_EGENERAL;
        }
    }
}

int mcp_redis_wire_has_leftover(const mcp_redis_wire_t *wire)
{
    return wire->reader->len > wire->reader->pos;
}

int mcp_redis_wire_is_stale(mcp_redis_wire_t *wire)
{
    char byte;
    ssize_t n = recv(wire->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)
        || mcp_redis_wire_has_leftover(wire);
}
