/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that come all at once, as after a restart, and a few others that call one after the other
 * all the while. Each newcomer gets a session with initialize, opens its standing stream on a
 * second connection, and makes a call on the first one: then it is ready. Commands:
 *   calm CALLERS MS           calls alone, for that long
 *   storm N CALLERS LIMIT_MS  the same calls until N newcomers are ready
 *   end                       close what the storm left open
 * Only the callers' calls are sampled. A caller or newcomer whose connection fails takes a new one,
 * which "errors" and "again" count.
 */
#include "mcpload.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_EVENTS 512
#define MAX_CALLERS 256
#define MAX_NEWCOMERS 20000
#define SESSION_LEN 64

/* What a connection is for next, and what it waits for. */
typedef enum { L_IDLE, L_INITIALIZE, L_STREAM, L_CALL, L_OPEN } step_e;

typedef struct line_t {
    int fd;
    step_e step;
    uint32_t used;
    uint64_t sent_ns;
    char in[1536];
} line_t;

typedef struct newcomer_t {
    line_t first, stream; /* the connection for requests, and the stream's */
    int is_ready;
    char session[SESSION_LEN];
} newcomer_t;

static struct {
    int ep, port;
    line_t callers[MAX_CALLERS];
    char session[MAX_CALLERS][SESSION_LEN];
    newcomer_t *newcomers;
    uint32_t calling, coming, ready, again, next_id;
    uint64_t done, errors;
    int sampling;
} S;

/* A line's index: callers first, then two for each newcomer. */
static line_t *line_at(uint32_t index)
{
    newcomer_t *n;

    if (index < MAX_CALLERS) {
        return &S.callers[index];
    }
    n = &S.newcomers[(index - MAX_CALLERS) / 2];
    return (index - MAX_CALLERS) % 2 ? &n->stream : &n->first;
}

static void watch(int op, uint32_t index, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.u32 = index };

    if (epoll_ctl(S.ep, op, line_at(index)->fd, &ev)) {
        mcpload_die("epoll_ctl");
    }
}

static void line_connect(uint32_t index, step_e step)
{
    line_t *line = line_at(index);
    struct sockaddr_in sa;

    line->step = step;
    line->fd = mcpload_socket(SOCK_NONBLOCK);
    mcpload_addr(&sa, S.port);
    if (connect(line->fd, (struct sockaddr *)&sa, sizeof(sa)) && errno != EINPROGRESS) {
        mcpload_die("connect");
    }
    watch(EPOLL_CTL_ADD, index, EPOLLOUT);
}

static void line_close(line_t *line)
{
    if (line->step != L_IDLE) {
        close(line->fd);
        line->step = L_IDLE;
    }
}

static const char *session_of(uint32_t index)
{
    return index < MAX_CALLERS ? S.session[index] : S.newcomers[(index - MAX_CALLERS) / 2].session;
}

static int is_newcomer(uint32_t index)
{
    return index >= MAX_CALLERS;
}

static void line_failed(uint32_t index)
{
    line_t *line = line_at(index);
    step_e step = line->step;

    line_close(line);
    if (is_newcomer(index)) {
        S.again++;
    }
    else {
        S.errors++;
    }
    line_connect(index, step == L_OPEN ? L_STREAM : step);
}

static void line_send(uint32_t index)
{
    line_t *line = line_at(index);
    char buf[2048];
    size_t n;

    line->used = 0;
    line->sent_ns = mcpload_now_ns();
    if (line->step == L_INITIALIZE) {
        n = mcpload_initialize(buf, sizeof(buf));
    }
    else if (line->step == L_CALL) {
        n = mcpload_call(buf, sizeof(buf), session_of(index));
    }
    else {
        n = (size_t)snprintf(buf, sizeof(buf), "GET /mcp?id=%u&every=0 HTTP/1.1\r\n"
                             "Host: localhost\r\nAccept: text/event-stream\r\n"
                             "MCP-Protocol-Version: 2025-06-18\r\nMcp-Session-Id: %s\r\n\r\n",
                             S.next_id++ % MCPLOAD_SLOTS, session_of(index));
    }
    if (send(line->fd, buf, n, MSG_NOSIGNAL) != (ssize_t)n) {
        line_failed(index);
        return;
    }
    watch(EPOLL_CTL_MOD, index, EPOLLIN);
}

/* A newcomer's line has its whole answer, or its stream's first event: on to what comes next. */
static void newcomer_next(uint32_t index)
{
    newcomer_t *n = &S.newcomers[(index - MAX_CALLERS) / 2];
    line_t *line = line_at(index);

    switch (line->step) {
    case L_INITIALIZE:
        if (!mcpload_session(line->in, n->session)) {
            line_failed(index);
            return;
        }
        line->step = L_CALL;
        line_connect(index + 1, L_STREAM);
        break;
    case L_STREAM:
        line->step = L_OPEN;
        line_send(index - 1);
        break;
    case L_CALL:
        line->used = 0;
        if (!n->is_ready) {
            n->is_ready = 1;
            S.ready++;
        }
        break;
    default:
        break;
    }
}

static void caller_next(uint32_t index)
{
    line_t *line = line_at(index);

    if (line->step == L_INITIALIZE) {
        if (!mcpload_session(line->in, S.session[index])) {
            mcpload_die("no session id in the answer to initialize");
        }
        line->step = L_CALL;
        S.calling++;
    }
    else {
        S.done++;
        if (S.sampling) {
            mcpload_sample(mcpload_now_ns() - line->sent_ns);
        }
    }
    line_send(index);
}

static int state_of(const line_t *line)
{
    if (line->step == L_STREAM) {
        return line->used < 12 || !memcmp(line->in + 8, " 200", 4)
            ? memmem(line->in, line->used, MCPLOAD_MARK, MCPLOAD_MARK_LEN) != NULL : -1;
    }
    return mcpload_answer_state(line->in, line->used);
}

static void line_readable(uint32_t index)
{
    line_t *line = line_at(index);
    ssize_t n = recv(line->fd, line->in + line->used, sizeof(line->in) - 1 - line->used,
                     MSG_DONTWAIT);
    int state = -1;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n > 0 && line->step == L_OPEN) {
        return;
    }
    if (n > 0) {
        line->used += (uint32_t)n;
        line->in[line->used] = '\0';
        state = state_of(line);
    }
    if (state == 0 && line->used < sizeof(line->in) - 1) {
        return;
    }
    if (state != 1) {
        line_failed(index);
    }
    else if (is_newcomer(index)) {
        newcomer_next(index);
    }
    else {
        caller_next(index);
    }
}

static void pump(int timeout)
{
    static struct epoll_event evs[MAX_EVENTS];
    int i, n = epoll_wait(S.ep, evs, MAX_EVENTS, timeout);

    for (i = 0; i < n; i++) {
        uint32_t index = evs[i].data.u32;

        if (line_at(index)->step == L_IDLE) {
            continue;
        }
        if (evs[i].events & EPOLLOUT) {
            line_send(index);
        }
        else {
            line_readable(index);
        }
    }
}

/* So many callers call: the sessions of new ones are there when this returns. */
static void start_callers(uint32_t count)
{
    uint32_t i;

    count = count < MAX_CALLERS ? count : MAX_CALLERS;
    for (i = 0; i < count; i++) {
        if (S.callers[i].step == L_IDLE) {
            line_connect(i, L_INITIALIZE);
        }
    }
    while (S.calling < count) {
        pump(10);
    }
    mcpload_samples_reset();
    S.done = S.errors = S.again = 0;
}

static void report(uint64_t start)
{
    double ms = (double)(mcpload_now_ns() - start) / 1e6;

    mcpload_samples_sort();
    printf("calls=%llu errors=%llu ms=%.0f p50=%.1f p99=%.1f max=%.1f ready=%u again=%u\n",
           (unsigned long long)S.done, (unsigned long long)S.errors, ms, mcpload_pct(50),
           mcpload_pct(99), mcpload_pct(100), S.ready, S.again);
}

static void cmd_calm(uint32_t callers, uint32_t ms)
{
    uint64_t start, end;

    start_callers(callers);
    start = mcpload_now_ns();
    end = start + ms * 1000000ull;
    S.sampling = 1;
    while (mcpload_now_ns() < end) {
        pump(10);
    }
    S.sampling = 0;
    report(start);
}

static void cmd_storm(uint32_t count, uint32_t callers, uint32_t limit_ms)
{
    uint64_t start, end;
    uint32_t i;

    count = count < MAX_NEWCOMERS ? count : MAX_NEWCOMERS;
    start_callers(callers);
    S.ready = 0;
    start = mcpload_now_ns();
    end = start + limit_ms * 1000000ull;
    S.sampling = 1;
    for (i = 0; i < count; i++) {
        line_connect(MAX_CALLERS + 2 * i, L_INITIALIZE);
        S.coming++;
        if (i % 64 == 0) {
            pump(0);
        }
    }
    while (S.ready < count && mcpload_now_ns() < end) {
        pump(10);
    }
    S.sampling = 0;
    report(start);
}

static void cmd_end(void)
{
    uint32_t i;

    for (i = 0; i < S.coming; i++) {
        line_close(&S.newcomers[i].first);
        line_close(&S.newcomers[i].stream);
        S.newcomers[i].is_ready = 0;
    }
    S.coming = 0;
    printf("ended=1\n");
}

static void command_run(const char *line)
{
    char name[16];
    uint32_t a = 0, b = 0, c = 0;

    if (sscanf(line, "%15s %u %u %u", name, &a, &b, &c) < 1) {
        return;
    }
    if (!strcmp(name, "calm")) {
        cmd_calm(a, b);
    }
    else if (!strcmp(name, "storm")) {
        cmd_storm(a, b, c);
    }
    else if (!strcmp(name, "end")) {
        cmd_end();
    }
    else {
        printf("error=unknown\n");
    }
    fflush(stdout);
}

void mcpload_storm(int port)
{
    char line[256];

    S.port = port;
    S.ep = epoll_create1(EPOLL_CLOEXEC);
    S.newcomers = calloc(MAX_NEWCOMERS, sizeof(*S.newcomers));
    if (!S.newcomers) {
        mcpload_die("malloc");
    }
    while (fgets(line, sizeof(line), stdin)) {
        command_run(line);
    }
    exit(0);
}
