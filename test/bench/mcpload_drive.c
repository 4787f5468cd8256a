/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client half. It holds streams and reads them while it obeys one command after the other:
 *   open N EVERY SESSIONS   N more streams, an event each EVERY ms (0: the first one only)
 *   first N BUDGET_MS       time to the first event of N streams opened one after the other
 *   delay MS                how late events come, for that long
 *   gone DEADLINE_MS        close all streams at once; when is the backend told
 *   call CONNS MS           tools/call on CONNS connections, one in flight each
 * Invariant: every stream's events arrive once, in order; "lost" and "broken" count what did not.
 */
#include "mcpload.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_EVENTS  512
#define MAX_CALLS   1024
#define OPEN_WINDOW 128
#define OPEN_MS     60000
#define SESSION_LEN 64

enum { K_STDIN, K_STREAM, K_CALL };
typedef enum { ST_CLOSED, ST_CONNECTING, ST_WAITING, ST_OPEN } state_e;

typedef struct stream_t {
    int fd;
    uint32_t seq;         /* of the next event */
    uint64_t start_ns;    /* before connect() */
    uint64_t first_ns;    /* its first event was read */
    uint64_t closed_ns;   /* before close() */
    unsigned char state;
    unsigned char status_seen;
    unsigned char tail_len;
    char tail[MCPLOAD_REC_LEN - 1]; /* of what was read, in case an event is torn */
    char session[SESSION_LEN];
} stream_t;

typedef struct call_t {
    int fd;
    uint32_t used;
    uint64_t sent_ns;
    char in[8192];
} call_t;

static struct {
    int ep, port;
    mcpload_board_t *board;
    stream_t *streams;
    uint32_t count;       /* streams ever made: the ids below it are used */
    uint32_t held, opening, every;
    uint32_t failed, broken, lost;
    uint64_t events;
    int sampling;
    call_t calls[MAX_CALLS];
    char request[1024];
    size_t request_len;
    uint64_t done, errors;
    char buf[65536];
} C;

static const char call_body[] =
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{"
    "\"name\":\"search_products\",\"arguments\":{"
    "\"query\":\"blue ceramic mug, two handles, dishwasher safe\",\"limit\":10,"
    "\"currency\":\"EUR\",\"sort\":\"price\"}}}";

static void watch(int op, int fd, uint32_t events, uint32_t kind, uint32_t index)
{
    struct epoll_event ev = { .events = events };

    ev.data.u64 = (uint64_t)kind << 32 | index;
    if (epoll_ctl(C.ep, op, fd, &ev)) {
        mcpload_die("epoll_ctl");
    }
}

static void stream_end(stream_t *s)
{
    if (s->state == ST_OPEN) {
        C.held--;
    }
    else {
        C.opening--;
    }
    s->closed_ns = mcpload_now_ns();
    close(s->fd);
    s->state = ST_CLOSED;
}

static void stream_fail(stream_t *s)
{
    if (s->state == ST_OPEN) {
        C.broken++;
    }
    else {
        C.failed++;
    }
    stream_end(s);
}

static stream_t *stream_start(void)
{
    struct sockaddr_in sa;
    stream_t *s = &C.streams[C.count];

    if (C.count >= MCPLOAD_SLOTS) {
        errno = ENOSPC;
        mcpload_die("streams");
    }
    s->seq = 0;
    s->first_ns = 0;
    s->status_seen = 0;
    s->tail_len = 0;
    s->state = ST_CONNECTING;
    s->fd = mcpload_socket(SOCK_NONBLOCK);
    mcpload_addr(&sa, C.port);
    C.opening++;
    s->start_ns = mcpload_now_ns();
    if (connect(s->fd, (struct sockaddr *)&sa, sizeof(sa)) && errno != EINPROGRESS) {
        mcpload_die("connect");
    }
    watch(EPOLL_CTL_ADD, s->fd, EPOLLOUT, K_STREAM, C.count++);
    return s;
}

static void stream_connected(stream_t *s, uint32_t id)
{
    char req[512];
    int n = snprintf(req, sizeof(req), "GET /mcp?id=%u&every=%u HTTP/1.1\r\nHost: localhost\r\n"
                     "Accept: text/event-stream\r\nMCP-Protocol-Version: 2025-06-18\r\n"
                     "User-Agent: mcpload\r\n%s%s%s\r\n", id, C.every,
                     s->session[0] ? "Mcp-Session-Id: " : "", s->session,
                     s->session[0] ? "\r\n" : "");

    if (send(s->fd, req, (size_t)n, MSG_NOSIGNAL) != n) {
        stream_fail(s);
        return;
    }
    s->state = ST_WAITING;
    watch(EPOLL_CTL_MOD, s->fd, EPOLLIN, K_STREAM, id);
}

static int hex_get(const char *p, int digits, uint64_t *v)
{
    *v = 0;
    while (digits--) {
        char ch = *p++;

        if (!isxdigit((unsigned char)ch)) {
            return -1;
        }
        *v = *v << 4 | (uint64_t)(ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10);
    }
    return 0;
}

static void event_take(stream_t *s, const char *rec, uint64_t now)
{
    uint64_t n, t;

    if (hex_get(rec + MCPLOAD_MARK_LEN, 8, &n) || hex_get(rec + MCPLOAD_T_AT, 16, &t)
        || n != s->seq) {
        C.lost++;
        return;
    }
    s->seq++;
    C.events++;
    if (s->state == ST_WAITING) {
        s->state = ST_OPEN;
        s->first_ns = now;
        C.opening--;
        C.held++;
    }
    else if (C.sampling) {
        mcpload_sample(now - t);
    }
}

static void stream_readable(stream_t *s)
{
    size_t keep = s->tail_len;
    ssize_t n = recv(s->fd, C.buf + keep, sizeof(C.buf) - keep, MSG_DONTWAIT);
    uint64_t now = mcpload_now_ns();
    const char *p, *end;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0 || (!s->status_seen && (n < 12 || memcmp(C.buf + 8, " 200", 4)))) {
        stream_fail(s);
        return;
    }
    s->status_seen = 1;
    memcpy(C.buf, s->tail, keep);
    end = C.buf + keep + n;
    p = C.buf;
    for (;;) {
        const char *rec = memmem(p, (size_t)(end - p), MCPLOAD_MARK, MCPLOAD_MARK_LEN);

        if (!rec || end - rec < MCPLOAD_REC_LEN) {
            break;
        }
        event_take(s, rec, now);
        p = rec + MCPLOAD_REC_LEN;
    }
    if (end - p > (long)sizeof(s->tail)) {
        p = end - sizeof(s->tail);
    }
    s->tail_len = (unsigned char)(end - p);
    memcpy(s->tail, p, s->tail_len);
}

static void call_send(call_t *c)
{
    c->used = 0;
    c->sent_ns = mcpload_now_ns();
    if (send(c->fd, C.request, C.request_len, MSG_NOSIGNAL) != (ssize_t)C.request_len) {
        C.errors++;
    }
}

static void call_open(call_t *c)
{
    struct sockaddr_in sa;

    c->fd = mcpload_socket(0);
    mcpload_addr(&sa, C.port);
    if (connect(c->fd, (struct sockaddr *)&sa, sizeof(sa))) {
        mcpload_die("connect");
    }
    watch(EPOLL_CTL_ADD, c->fd, EPOLLIN, K_CALL, (uint32_t)(c - C.calls));
}

int mcpload_answer_state(const char *in, size_t used)
{
    const char *end = memmem(in, used, "\r\n\r\n", 4);
    const char *line = in;

    if (used >= 12 && memcmp(in + 8, " 200", 4)) {
        return -1;
    }
    if (!end) {
        return 0;
    }
    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL && ++line < end) {
        if ((*line | 32) == 'c' && !strncasecmp(line, "content-length:", 15)) {
            return used >= (size_t)(end + 4 - in) + strtoul(line + 15, NULL, 10);
        }
        if ((*line | 32) == 't' && !strncasecmp(line, "transfer-encoding:", 18)) {
            return !memcmp(in + used - 5, "0\r\n\r\n", 5);
        }
    }
    return -1;
}

static void call_readable(call_t *c)
{
    ssize_t n = recv(c->fd, c->in + c->used, sizeof(c->in) - c->used, MSG_DONTWAIT);
    int state = -1;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n > 0) {
        c->used += (uint32_t)n;
        state = mcpload_answer_state(c->in, c->used);
    }
    if (state == 0 && c->used < sizeof(c->in)) {
        return;
    }
    if (state == 1) {
        C.done++;
        mcpload_sample(mcpload_now_ns() - c->sent_ns);
    }
    else {
        C.errors++;
        close(c->fd);
        call_open(c);
    }
    call_send(c);
}

/* Wait for up to timeout ms and read what there is. Returns whether stdin has something. */
static int pump(int timeout)
{
    static struct epoll_event evs[MAX_EVENTS];
    int i, command = 0, n = epoll_wait(C.ep, evs, MAX_EVENTS, timeout);

    for (i = 0; i < n; i++) {
        uint32_t index = (uint32_t)evs[i].data.u64;
        stream_t *s = &C.streams[index];

        switch (evs[i].data.u64 >> 32) {
        case K_STDIN:
            command = 1;
            break;
        case K_CALL:
            call_readable(&C.calls[index]);
            break;
        default:
            if (s->state == ST_CONNECTING) {
                stream_connected(s, index);
            }
            else if (s->state != ST_CLOSED) {
                stream_readable(s);
            }
        }
    }
    return command;
}

static void pump_for(uint32_t ms)
{
    uint64_t end = mcpload_now_ns() + ms * 1000000ull, now;

    while ((now = mcpload_now_ns()) < end) {
        pump((int)((end - now) / 1000000u) + 1);
    }
}

size_t mcpload_initialize(char *buf, size_t size)
{
    static const char body[] =
        "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"initialize\",\"params\":{"
        "\"protocolVersion\":\"2025-06-18\",\"capabilities\":{},"
        "\"clientInfo\":{\"name\":\"mcpload\",\"version\":\"1\"}}}";

    return (size_t)snprintf(buf, size, "POST /mcp?init=1 HTTP/1.1\r\nHost: localhost\r\n"
                     "Accept: application/json, text/event-stream\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     sizeof(body) - 1, body);
}

int mcpload_session(const char *in, char *session)
{
    const char *at = strcasestr(in, "\nmcp-session-id:");

    return at && sscanf(at + 16, " %63[^\r\n]", session) == 1;
}

/* A session as a client gets one, on a connection that serves this alone and stays. */
static void session_get(int fd, char *session)
{
    char buf[4096];
    size_t used = 0, n = mcpload_initialize(buf, sizeof(buf));

    if (send(fd, buf, n, MSG_NOSIGNAL) != (ssize_t)n) {
        mcpload_die("initialize");
    }
    do {
        ssize_t got = recv(fd, buf + used, sizeof(buf) - 1 - used, 0);

        if (got <= 0) {
            mcpload_die("initialize");
        }
        used += (size_t)got;
        buf[used] = '\0';
    } while (!strstr(buf, "\"result\":{}}"));
    if (!mcpload_session(buf, session)) {
        errno = EPROTO;
        mcpload_die("no session id in the answer to initialize");
    }
}

static void sessions_get(uint32_t count)
{
    struct timeval patience = { .tv_sec = 10 };
    struct sockaddr_in sa;
    int fd = mcpload_socket(0);
    uint32_t i;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    mcpload_addr(&sa, C.port);
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
        mcpload_die("connect");
    }
    for (i = 0; i < count && C.count + i < MCPLOAD_SLOTS; i++) {
        session_get(fd, C.streams[C.count + i].session);
    }
    close(fd);
}

static void cmd_open(uint32_t count, uint32_t every, uint32_t sessions)
{
    uint64_t start, end;
    uint32_t made = 0;

    C.every = every;
    C.failed = 0;
    if (sessions) {
        sessions_get(count);
    }
    start = mcpload_now_ns();
    end = start + OPEN_MS * 1000000ull;
    while ((made < count || C.opening) && mcpload_now_ns() < end) {
        while (made < count && C.opening < OPEN_WINDOW) {
            stream_start();
            made++;
        }
        pump(10);
    }
    printf("held=%u failed=%u backend=%u ms=%.0f\n", C.held, C.failed + C.opening,
           atomic_load(&C.board->open), (double)(mcpload_now_ns() - start) / 1e6);
}

static void cmd_first(uint32_t count, uint32_t budget_ms)
{
    uint64_t end = mcpload_now_ns() + budget_ms * 1000000ull;
    uint32_t i, from;

    mcpload_samples_reset();
    C.failed = 0;
    sessions_get(count);
    from = C.count;
    for (i = 0; i < count && mcpload_now_ns() < end; i++) {
        stream_t *s = stream_start();

        while (s->state != ST_OPEN && s->state != ST_CLOSED && mcpload_now_ns() < end) {
            pump(100);
        }
        /* One that the budget ran out on counts with the time it has waited. */
        if (s->state != ST_CLOSED) {
            mcpload_sample((s->first_ns ? s->first_ns : mcpload_now_ns()) - s->start_ns);
        }
    }
    while (from < C.count) {
        if (C.streams[from].state != ST_CLOSED) {
            stream_end(&C.streams[from]);
        }
        from++;
    }
    mcpload_samples_sort();
    printf("n=%u failed=%u p50=%.1f p99=%.1f\n", mcpload_samples_count(), C.failed,
           mcpload_pct(50), mcpload_pct(99));
}

static void cmd_delay(uint32_t ms)
{
    uint64_t events = C.events;
    uint32_t lost = C.lost, broken = C.broken;

    mcpload_samples_reset();
    C.sampling = 1;
    pump_for(ms);
    C.sampling = 0;
    mcpload_samples_sort();
    printf("events=%llu lost=%u broken=%u p50=%.1f p99=%.1f\n",
           (unsigned long long)(C.events - events), C.lost - lost, C.broken - broken,
           mcpload_pct(50), mcpload_pct(99));
}

static void cmd_gone(uint32_t deadline_ms)
{
    uint32_t i, told = 0, closed = 0;
    uint64_t end;
    uint32_t *ids = calloc(C.count + 1, sizeof(*ids));

    for (i = 0; i < C.count; i++) {
        if (C.streams[i].state == ST_OPEN) {
            ids[closed++] = i;
        }
    }
    for (i = 0; i < closed; i++) {
        stream_end(&C.streams[ids[i]]);
    }
    /* Nothing else runs here: look at one word, and sleep in between. */
    end = mcpload_now_ns() + deadline_ms * 1000000ull;
    while (atomic_load(&C.board->open) && mcpload_now_ns() < end) {
        usleep(500);
    }
    mcpload_samples_reset();
    for (i = 0; i < closed; i++) {
        uint64_t gone = atomic_load(&C.board->gone_ns[ids[i]]);

        told += gone != 0;
        gone = gone ? gone : mcpload_now_ns();
        mcpload_sample(gone > C.streams[ids[i]].closed_ns ? gone - C.streams[ids[i]].closed_ns : 0);
    }
    free(ids);
    mcpload_samples_sort();
    printf("closed=%u told=%u p50=%.1f p99=%.1f max=%.1f\n", closed, told, mcpload_pct(50),
           mcpload_pct(99), mcpload_pct(100));
}

size_t mcpload_call(char *buf, size_t size, const char *session)
{
    return (size_t)snprintf(buf, size,
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mcpload\r\n"
        "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
        "MCP-Protocol-Version: 2025-06-18\r\nMcp-Session-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
        session, sizeof(call_body) - 1, call_body);
}

static void cmd_call(uint32_t conns, uint32_t ms)
{
    char session[SESSION_LEN];
    uint64_t start;
    uint32_t i;

    sessions_get(1);
    memcpy(session, C.streams[C.count].session, sizeof(session));
    C.request_len = mcpload_call(C.request, sizeof(C.request), session);
    mcpload_samples_reset();
    C.done = C.errors = 0;
    conns = conns < MAX_CALLS ? conns : MAX_CALLS;
    for (i = 0; i < conns; i++) {
        call_open(&C.calls[i]);
    }
    start = mcpload_now_ns();
    for (i = 0; i < conns; i++) {
        call_send(&C.calls[i]);
    }
    pump_for(ms);
    ms = (uint32_t)((mcpload_now_ns() - start) / 1000000u);
    for (i = 0; i < conns; i++) {
        close(C.calls[i].fd);
    }
    mcpload_samples_sort();
    printf("calls=%llu errors=%llu ms=%u p50=%.1f p99=%.1f\n", (unsigned long long)C.done,
           (unsigned long long)C.errors, ms, mcpload_pct(50), mcpload_pct(99));
}

static void command_run(const char *line)
{
    char name[16];
    uint32_t a = 0, b = 0, c = 0;

    if (sscanf(line, "%15s %u %u %u", name, &a, &b, &c) < 1) {
        return;
    }
    if (!strcmp(name, "open")) {
        cmd_open(a, b, c);
    }
    else if (!strcmp(name, "first")) {
        cmd_first(a, b);
    }
    else if (!strcmp(name, "delay")) {
        cmd_delay(a);
    }
    else if (!strcmp(name, "gone")) {
        cmd_gone(a);
    }
    else if (!strcmp(name, "call")) {
        cmd_call(a, b);
    }
    else {
        printf("error=unknown\n");
    }
    fflush(stdout);
}

void mcpload_drive(int port, mcpload_board_t *board)
{
    char line[256];

    C.port = port;
    C.board = board;
    C.ep = epoll_create1(EPOLL_CLOEXEC);
    C.streams = calloc(MCPLOAD_SLOTS, sizeof(*C.streams));
    if (!C.streams) {
        mcpload_die("malloc");
    }
    watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, K_STDIN, 0);
    for (;;) {
        ssize_t n;

        while (!pump(-1)) {
            continue;
        }
        n = read(STDIN_FILENO, line, sizeof(line) - 1);
        if (n <= 0) {
            exit(0);
        }
        line[n] = '\0';
        command_run(line);
    }
}
