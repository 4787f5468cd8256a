/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scripted MCP server that costs little: GET is an event stream (query: id= of the stream,
 * every= ms between its events), POST is answered at once (size= bytes of JSON, init=1 gives a
 * session id), DELETE too. Streams due in the same millisecond share a slot of a timer wheel.
 * Memory is allocated for a connection, never for an event or a request.
 */
#include "mcpload.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WHEEL      16384u /* slots of a millisecond: no stream may tick more seldom */
#define MAX_FDS    65536
#define MAX_ANSWER 65536
#define MAX_EVENTS 512

typedef struct conn_t {
    struct conn_t *next; /* in the wheel's slot */
    int fd;
    int id;              /* of the stream, or -1 */
    uint32_t every;      /* ms; 0: no more than the first event */
    uint32_t seq;
    uint32_t used;
    char in[4096];
} conn_t;

typedef struct query_t {
    int id;
    uint32_t every;
    uint32_t size;
    int init;
} query_t;

static struct {
    int ep;
    int lfd;
    mcpload_board_t *board;
    conn_t *conns[MAX_FDS];
    conn_t *wheel[WHEEL];
    uint32_t timers;
    uint64_t wheel_ms;            /* everything before this has been sent */
    uint32_t sessions;
    char chunk[512];              /* an event in its chunk, with the fields to fill in */
    size_t chunk_len, mark_at;
    char answer[MAX_ANSWER + 512];
    size_t answer_len;
    uint32_t answer_size;         /* what size= the answer was made for */
} S;

static const char stream_head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

static void hex_put(char *at, uint64_t v, int digits)
{
    while (digits--) {
        at[digits] = "0123456789abcdef"[v & 15];
        v >>= 4;
    }
}

static void chunk_make(void)
{
    static const char event[] =
        "event: message\ndata: "
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":"
        "{\"level\":\"info\",\"logger\":\"bench\",\"data\":{\"n\":\"00000000\",\"t\":"
        "\"0000000000000000\",\"text\":\"step done\"}}}\n\n";

    S.chunk_len = (size_t)snprintf(S.chunk, sizeof(S.chunk), "%zx\r\n%s\r\n", sizeof(event) - 1,
                                   event);
    S.mark_at = (size_t)(strstr(S.chunk, MCPLOAD_MARK) - S.chunk);
}

static void answer_make(uint32_t size)
{
    static const char open[] = "{\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"";
    static const char close[] = "\"}],\"isError\":false},\"jsonrpc\":\"2.0\",\"id\":7}";
    size_t frame = sizeof(open) + sizeof(close) - 2;
    size_t fill = size > frame ? size - frame : 0;
    int head = snprintf(S.answer, 512, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n%s", frame + fill, open);

    memset(S.answer + head, 'x', fill);
    memcpy(S.answer + head + fill, close, sizeof(close) - 1);
    S.answer_len = (size_t)head + fill + sizeof(close) - 1;
    S.answer_size = size;
}

static void wheel_add(conn_t *c, uint64_t due_ms)
{
    conn_t **slot = &S.wheel[due_ms % WHEEL];

    c->next = *slot;
    *slot = c;
    S.timers++;
}

static void conn_close(conn_t *c)
{
    int fd = c->fd;

    if (c->id >= 0) {
        atomic_store(&S.board->gone_ns[c->id], mcpload_now_ns());
        atomic_fetch_sub(&S.board->open, 1);
    }
    close(fd);
    S.conns[fd] = NULL;
    if (c->every) {
        /* It is in the wheel, in a slot that is not worth remembering: the tick frees it. */
        c->fd = -1;
        return;
    }
    free(c);
}

static int conn_send(conn_t *c, const char *buf, size_t len)
{
    /* Answers and events fit into a loopback socket's buffer; what does not is a peer that
     * stopped reading, which no row measures. */
    return send(c->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len ? 0 : -1;
}

static void event_fill(conn_t *c)
{
    hex_put(S.chunk + S.mark_at + MCPLOAD_MARK_LEN, c->seq++, 8);
    hex_put(S.chunk + S.mark_at + MCPLOAD_T_AT, mcpload_now_ns(), 16);
}

static int stream_start(conn_t *c, const query_t *q)
{
    char buf[sizeof(stream_head) + sizeof(S.chunk)];
    uint64_t now_ms = mcpload_now_ns() / 1000000u;

    if (q->id < 0 || q->id >= (int)MCPLOAD_SLOTS || q->every >= WHEEL) {
        return -1;
    }
    c->id = q->id;
    c->seq = 0;
    atomic_store(&S.board->gone_ns[c->id], 0);
    atomic_fetch_add(&S.board->open, 1);
    event_fill(c);
    memcpy(buf, stream_head, sizeof(stream_head) - 1);
    memcpy(buf + sizeof(stream_head) - 1, S.chunk, S.chunk_len);
    if (conn_send(c, buf, sizeof(stream_head) - 1 + S.chunk_len)) {
        return -1;
    }
    c->every = q->every;
    if (c->every) {
        /* Phases spread evenly, whatever the order in which streams are opened. */
        if (!S.timers) {
            S.wheel_ms = now_ms;
        }
        wheel_add(c, now_ms + 1 + (uint32_t)c->id * 2654435761u % c->every);
    }
    return 0;
}

static void wheel_tick_slot(uint64_t ms)
{
    conn_t *c = S.wheel[ms % WHEEL];

    S.wheel[ms % WHEEL] = NULL;
    while (c) {
        conn_t *next = c->next;

        S.timers--;
        if (c->fd < 0) {
            free(c);
        }
        else {
            uint32_t every = c->every;

            event_fill(c);
            if (conn_send(c, S.chunk, S.chunk_len)) {
                c->every = 0;
                conn_close(c);
            }
            else {
                wheel_add(c, ms + every);
            }
        }
        c = next;
    }
}

/* Send what is due; returns ms to the next slot in use, -1 if there is none. */
static int wheel_run(void)
{
    uint64_t now_ms = mcpload_now_ns() / 1000000u;
    int wait = 1;

    if (!S.timers) {
        return -1;
    }
    while (S.wheel_ms <= now_ms) {
        wheel_tick_slot(S.wheel_ms++);
    }
    while (wait < 100 && !S.wheel[(now_ms + (uint64_t)wait) % WHEEL]) {
        wait++;
    }
    return wait;
}

static void query_parse(const char *p, const char *end, query_t *q)
{
    memset(q, 0, sizeof(*q));
    q->id = -1;
    q->size = 300;
    while (p < end && *p != ' ') {
        const char *eq = memchr(p + 1, '=', (size_t)(end - p - 1));
        uint32_t v = 0;

        if (!eq) {
            return;
        }
        for (eq++; eq < end && *eq >= '0' && *eq <= '9'; eq++) {
            v = v * 10 + (uint32_t)(*eq - '0');
        }
        switch (p[1]) {
        case 'i':
            if (p[2] == 'd') {
                q->id = (int)v;
            }
            else {
                q->init = 1;
            }
            break;
        case 'e':
            q->every = v;
            break;
        case 's':
            q->size = v < MAX_ANSWER ? v : MAX_ANSWER;
            break;
        }
        p = eq;
    }
}

/* The Content-Length among the header lines, 0 without one, -1 with a transfer coding. */
static long body_length(const char *head, const char *end)
{
    const char *line = memchr(head, '\n', (size_t)(end - head));

    while (line && ++line < end) {
        if (end - line > 15 && !strncasecmp(line, "content-length:", 15)) {
            return strtol(line + 15, NULL, 10);
        }
        if (end - line > 18 && !strncasecmp(line, "transfer-encoding:", 18)) {
            return -1;
        }
        line = memchr(line, '\n', (size_t)(end - line));
    }
    return 0;
}

static int init_answer(conn_t *c)
{
    static const char body[] = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}";
    char buf[256];
    int n = snprintf(buf, sizeof(buf), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                     "Mcp-Session-Id: bench-%08x-%08x\r\nContent-Length: %zu\r\n\r\n%s",
                     ++S.sessions, (unsigned)getpid(), sizeof(body) - 1, body);

    return conn_send(c, buf, (size_t)n);
}

/* Serve one request from the front of the buffer. Returns its length, 0: not all there, -1. */
static long request_serve(conn_t *c)
{
    const char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    const char *eol = memchr(c->in, '\n', c->used);
    const char *mark;
    query_t q;
    long len;

    if (!end) {
        return c->used < sizeof(c->in) ? 0 : -1;
    }
    len = body_length(c->in, end);
    if (len < 0 || (size_t)(end + 4 - c->in) + (size_t)len > sizeof(c->in)) {
        return -1;
    }
    len += end + 4 - c->in;
    if (len > (long)c->used) {
        return 0;
    }
    mark = memchr(c->in, '?', (size_t)(eol - c->in));
    query_parse(mark ? mark : eol, eol, &q);
    if (c->in[0] == 'G') {
        return stream_start(c, &q) ? -1 : len;
    }
    if (q.init) {
        return init_answer(c) ? -1 : len;
    }
    if (q.size != S.answer_size) {
        answer_make(q.size);
    }
    return conn_send(c, S.answer, S.answer_len) ? -1 : len;
}

static void conn_readable(conn_t *c)
{
    ssize_t n = recv(c->fd, c->in + c->used, sizeof(c->in) - c->used, MSG_DONTWAIT);
    long used = 0;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        conn_close(c);
        return;
    }
    c->used += (uint32_t)n;
    while (c->used && (used = request_serve(c)) > 0) {
        c->used -= (uint32_t)used;
        memmove(c->in, c->in + used, c->used);
    }
    if (used < 0) {
        atomic_fetch_add(&S.board->refused, 1);
        conn_close(c);
    }
}

static void accept_all(void)
{
    int fd;

    while ((fd = accept4(S.lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP };
        conn_t *c = fd < MAX_FDS ? calloc(1, sizeof(*c)) : NULL;

        if (!c) {
            close(fd);
            continue;
        }
        c->fd = fd;
        c->id = -1;
        S.conns[fd] = c;
        ev.data.fd = fd;
        epoll_ctl(S.ep, EPOLL_CTL_ADD, fd, &ev);
    }
}

static void listen_on(int port)
{
    struct sockaddr_in sa;
    struct epoll_event ev = { .events = EPOLLIN };
    int one = 1;

    /* Accepted sockets inherit TCP_NODELAY from this one. */
    S.lfd = mcpload_socket(SOCK_NONBLOCK);
    setsockopt(S.lfd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    mcpload_addr(&sa, port);
    if (bind(S.lfd, (struct sockaddr *)&sa, sizeof(sa)) || listen(S.lfd, 4096)) {
        mcpload_die("bind");
    }
    ev.data.fd = S.lfd;
    epoll_ctl(S.ep, EPOLL_CTL_ADD, S.lfd, &ev);
    ev.data.fd = STDIN_FILENO;
    epoll_ctl(S.ep, EPOLL_CTL_ADD, STDIN_FILENO, &ev);
}

void mcpload_serve(int port, mcpload_board_t *board)
{
    static struct epoll_event evs[MAX_EVENTS];

    S.board = board;
    S.ep = epoll_create1(EPOLL_CLOEXEC);
    chunk_make();
    answer_make(300);
    listen_on(port);
    for (;;) {
        int i, n = epoll_wait(S.ep, evs, MAX_EVENTS, wheel_run());

        for (i = 0; i < n; i++) {
            int fd = evs[i].data.fd;

            if (fd == S.lfd) {
                accept_all();
            }
            else if (fd == STDIN_FILENO) {
                exit(0);
            }
            else if (S.conns[fd]) {
                conn_readable(S.conns[fd]);
            }
        }
    }
}
