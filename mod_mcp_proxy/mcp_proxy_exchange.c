/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of one exchange, and its two drivers. advance() goes as far as it can without
 * waiting and says what it waits for. On a worker that is polled for a few milliseconds, since most
 * calls are answered by then; after that the request is parked and the loop drives. Whatever may
 * block, or runs other modules' code, happens on a worker: heads, ends, retries.
 */
#include "mcp_proxy_exchange.h"

#include <ap_mpm.h>
#include <errno.h>
#include <http_core.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "mcp_clock.h"

#define WORKER_BUFFER (16 * 1024)
/* One write to the client stays well below the 64 KB at which the core output filter waits. */
#define WRITE_MOST (32 * 1024)
#define GRACE apr_time_from_msec(5)
#define HANDSHAKE_RETRY apr_time_from_msec(20)
#define SESSION_HOLD apr_time_from_sec(90)
#define SESSION_RENEW apr_time_from_sec(30)
/* Reads in a row for one exchange. */
#define MOST_ROUNDS 16
/* A response, with the interim ones before it. */
#define MOST_HEADS 20
#define REST_AFTER apr_time_from_msec(10)
#define REST_MOST apr_time_from_msec(250)
#define REST_BUSY 16
#define HEARTBEAT ":\n\n"

/* Workers that wait for a fast answer right now; no more than half of them may. */
static int waiting_workers;

static apr_int64_t conf(const mcp_exchange_t *x, mcp_proxy_directive_e id)
{
    return mcp_proxy_conf(x->r->per_dir_config, id);
}

void mcp_exchange_fail(mcp_exchange_t *x, int status)
{
    if (!x->failed) {
        x->failed = status;
    }
    x->state = MCP_X_END;
}

/* ---- timeouts ---- */

static apr_interval_time_t response_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    if (s->timeout_set) {
        return s->timeout;
    }
    return conf(x, x->expects_stream ? MCP_PROXY_STREAM_TIMEOUT : MCP_PROXY_RESPONSE_TIMEOUT);
}

static apr_interval_time_t stream_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    if (s->timeout_set) {
        return s->timeout;
    }
    return conf(x, x->is_stream ? MCP_PROXY_STREAM_TIMEOUT : MCP_PROXY_RESPONSE_TIMEOUT);
}

static apr_interval_time_t connect_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    return s->conn_timeout_set ? s->conn_timeout : conf(x, MCP_PROXY_CONNECT_TIMEOUT);
}

static const char *connect_timeout_name(const mcp_exchange_t *x)
{
    return x->target.worker->s->conn_timeout_set ? "the member's connectiontimeout"
                                                 : "MCPProxyConnectTimeout";
}

static const char *silence_name(const mcp_exchange_t *x, int is_stream)
{
    if (x->target.worker->s->timeout_set) {
        return "the member's timeout";
    }
    return is_stream ? "MCPProxyStreamTimeout" : "MCPProxyResponseTimeout";
}

static int may_write_between(const mcp_exchange_t *x)
{
    return x->is_stream && x->head_sent && !x->held_len && mcp_sse_is_between_events(&x->sse)
        && !apr_table_get(x->r->headers_out, "Content-Encoding");
}

static apr_time_t earlier(apr_time_t a, apr_time_t b)
{
    return a < b ? a : b;
}

/* When a child that is to go ends this, should the exchange not have ended before. */
static apr_time_t drain_time(const mcp_exchange_t *x)
{
    return may_write_between(x) ? x->drain_at : x->drain_until;
}

static apr_time_t deadline_of_state(const mcp_exchange_t *x);

/* When something has to be looked at, should nothing happen before. */
static apr_time_t deadline(const mcp_exchange_t *x)
{
    apr_time_t when = deadline_of_state(x);

    return x->drain_at ? earlier(when, drain_time(x)) : when;
}

static apr_time_t deadline_of_state(const mcp_exchange_t *x)
{
    apr_interval_time_t heartbeat;
    apr_time_t when;

    switch (x->state) {
    case MCP_X_CONNECT:
    case MCP_X_HANDSHAKE:
        return x->started + connect_timeout(x);
    case MCP_X_SEND:
    case MCP_X_HEAD:
        return x->started + response_timeout(x);
    default:
        break;
    }
    if (x->blocked_since) {
        return x->blocked_since + conf(x, MCP_PROXY_WRITE_TIMEOUT);
    }
    when = x->last_in + stream_timeout(x);
    if (!x->head_sent && x->holds_first) {
        when = earlier(when, x->hold_until);
    }
    heartbeat = x->is_stream ? conf(x, MCP_PROXY_HEARTBEAT) : 0;
    if (heartbeat) {
        when = earlier(when, x->last_out + heartbeat);
    }
    if (x->is_standing && x->q->looked_up) {
        when = earlier(when, x->session_held + SESSION_RENEW);
    }
    return when;
}

static apr_status_t write_out(mcp_exchange_t *x, int on_worker);

static void time_out(mcp_exchange_t *x, int status, const char *which)
{
    ap_log_rerror(APLOG_MARK, x->head_sent ? APLOG_INFO : APLOG_ERR, APR_TIMEUP, x->r,
                  MCP_LOGNO(2040) "%s ran out waiting for %s", which, x->target.worker->s->name_ex);
    x->timed_out = 1;
    if (x->head_sent) {
        x->broken = 1;
        x->state = MCP_X_END;
        return;
    }
    mcp_exchange_fail(x, status);
}

static void start_blocking(mcp_exchange_t *x)
{
    x->blocked_since = mcp_clock_now();
    x->unacknowledged = mcp_park_unacknowledged(x->park);
}

/*
 * A client that reads, but less than it takes for its socket to be writable again, is slow and not
 * gone: what the kernel holds for it grows less.
 */
static int takes_something(mcp_exchange_t *x)
{
    int before = x->unacknowledged;

    x->unacknowledged = mcp_park_unacknowledged(x->park);
    return x->unacknowledged < before;
}

static void drop_client(mcp_exchange_t *x)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, APR_TIMEUP, x->r, MCP_LOGNO(2041)
                  "the client took nothing for MCPProxyWriteTimeout: dropped");
    x->client_gone = 1;
    x->state = MCP_X_END;
}

static void beat(mcp_exchange_t *x, apr_time_t now)
{
    apr_bucket_alloc_t *list = x->r->connection->bucket_alloc;

    x->last_out = now;
    if (may_write_between(x)) {
        APR_BRIGADE_INSERT_TAIL(x->bb, apr_bucket_immortal_create(HEARTBEAT, strlen(HEARTBEAT),
                                                                  list));
        if (mcp_park_write(x->park, x->bb) != APR_SUCCESS) {
            x->client_gone = 1;
            x->state = MCP_X_END;
        }
    }
}

static void hold_session(mcp_exchange_t *x, apr_time_t now)
{
    x->session_held = now;
    if (x->q->looked_up) {
        mcp_session_hold(mcp_proxy_sessions(), &x->q->key, now + SESSION_HOLD);
    }
}

/*
 * This child has waited long enough: a standing stream ends between two events, or breaks off where
 * that did not come in time; a request that has no answer yet is told so.
 */
static int has_drained(mcp_exchange_t *x, apr_time_t now)
{
    if (!x->drain_at || now < drain_time(x)) {
        return 0;
    }
    x->draining = 1;
    if (!x->head_sent) {
        mcp_exchange_fail(x, HTTP_SERVICE_UNAVAILABLE);
    }
    else {
        x->broken = !may_write_between(x) || !x->is_standing;
        x->state = MCP_X_END;
    }
    return 1;
}

/* The deadline has come, or maybe another one meanwhile: see which. */
static void look_at_clock(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now();

    if (has_drained(x, now)) {
        return;
    }
    switch (x->state) {
    case MCP_X_CONNECT:
    case MCP_X_HANDSHAKE:
        if (now >= x->started + connect_timeout(x)) {
            time_out(x, HTTP_SERVICE_UNAVAILABLE, connect_timeout_name(x));
        }
        return;
    case MCP_X_SEND:
    case MCP_X_HEAD:
        if (now >= x->started + response_timeout(x)) {
            time_out(x, HTTP_GATEWAY_TIME_OUT, silence_name(x, x->expects_stream));
        }
        return;
    case MCP_X_BODY:
        break;
    default:
        return;
    }
    if (x->blocked_since) {
        if (now >= x->blocked_since + conf(x, MCP_PROXY_WRITE_TIMEOUT)) {
            if (takes_something(x)) {
                x->blocked_since = now;
            }
            else {
                drop_client(x);
            }
        }
        return;
    }
    if (!x->head_sent && x->holds_first && now >= x->hold_until
        && write_out(x, 0) != APR_SUCCESS) {
        x->client_gone = 1;
        x->state = MCP_X_END;
        return;
    }
    if (now >= x->last_in + stream_timeout(x)) {
        time_out(x, HTTP_GATEWAY_TIME_OUT, silence_name(x, x->is_stream));
        return;
    }
    if (x->is_standing && now >= x->session_held + SESSION_RENEW) {
        hold_session(x, now);
    }
    if (x->is_stream && conf(x, MCP_PROXY_HEARTBEAT)
        && now >= x->last_out + conf(x, MCP_PROXY_HEARTBEAT)) {
        beat(x, now);
    }
}

/* ---- steps ---- */

/* The watch goes first: a closed descriptor's number may be another one's at once. */
static void drop_backend(mcp_exchange_t *x)
{
    if (x->watch.active) {
        mcp_watch_forget(mcp_park_loop(x->park), &x->watch);
    }
    if (x->backend) {
        mcp_backend_close(x->backend);
        x->backend = NULL;
    }
}

static mcp_exchange_wait_e give_up_connect(mcp_exchange_t *x, apr_status_t rv)
{
    ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, x->r, MCP_LOGNO(2042)
                  "could not connect to %s", x->target.worker->s->name_ex);
    mcp_exchange_fail(x, HTTP_SERVICE_UNAVAILABLE);
    return MCP_X_WORKER;
}

static mcp_exchange_wait_e step_connect(mcp_exchange_t *x)
{
    apr_status_t rv = x->backend ? mcp_backend_connected(x->backend) : APR_ENOTSOCK;

    while (rv != APR_SUCCESS && rv != APR_EINPROGRESS) {
        if (x->backend) {
            drop_backend(x);
            x->target.address = x->target.address->next;
        }
        if (!x->target.address) {
            return give_up_connect(x, rv);
        }
        rv = mcp_backend_connect(&x->target, &x->backend);
        if (rv == APR_SUCCESS) {
            rv = mcp_backend_connected(x->backend);
        }
        else {
            x->target.address = x->target.address->next;
        }
    }
    if (rv == APR_EINPROGRESS) {
        return MCP_X_WRITE;
    }
    x->state = mcp_backend_needs_handshake(x->backend) ? MCP_X_HANDSHAKE : MCP_X_SEND;
    return MCP_X_READ;
}

static mcp_exchange_wait_e step_handshake(mcp_exchange_t *x, int on_worker)
{
    apr_status_t rv;

    if (!on_worker) {
        return MCP_X_WORKER;
    }
    rv = mcp_backend_handshake(x->backend, x->r,
                               x->started + connect_timeout(x) - mcp_clock_now());
    if (rv == APR_EAGAIN) {
        return MCP_X_LATER;
    }
    if (rv != APR_SUCCESS && mcp_clock_now() >= x->started + connect_timeout(x)) {
        time_out(x, HTTP_SERVICE_UNAVAILABLE, connect_timeout_name(x));
        return MCP_X_WORKER;
    }
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, x->r, MCP_LOGNO(2043)
                      "no TLS connection to %s could be set up", x->target.worker->s->name_ex);
        mcp_exchange_fail(x, HTTP_SERVICE_UNAVAILABLE);
        return MCP_X_WORKER;
    }
    x->state = MCP_X_SEND;
    x->started = mcp_clock_now();
    return MCP_X_READ;
}

static void take_sent(mcp_exchange_t *x, apr_size_t sent)
{
    int i;

    for (i = 0; i < 2 && sent; i++) {
        apr_size_t n = sent < x->request[i].iov_len ? sent : x->request[i].iov_len;

        x->request[i].iov_base = (char *)x->request[i].iov_base + n;
        x->request[i].iov_len -= n;
        sent -= n;
    }
}

static int is_unsent(const mcp_exchange_t *x)
{
    return x->request[0].iov_len + x->request[1].iov_len > 0;
}

static mcp_exchange_wait_e step_send(mcp_exchange_t *x)
{
    while (is_unsent(x)) {
        apr_size_t sent;
        apr_status_t rv = mcp_backend_send(x->backend, x->request, 2, &sent);

        if (APR_STATUS_IS_EAGAIN(rv)) {
            return MCP_X_WRITE;
        }
        if (rv != APR_SUCCESS && !x->was_sent && mcp_backend_is_reused(x->backend)) {
            drop_backend(x);
            x->state = MCP_X_CONNECT;
            return MCP_X_WRITE;
        }
        if (rv != APR_SUCCESS) {
            /* It may have answered before it closed, without reading all: see what there is. */
            ap_log_rerror(APLOG_MARK, APLOG_DEBUG, rv, x->r, "sending to %s stopped",
                          x->target.worker->s->name_ex);
            x->send_failed = 1;
            x->state = MCP_X_HEAD;
            return MCP_X_READ;
        }
        x->was_sent = 1;
        take_sent(x, sent);
    }
    if (mcp_backend_has_unsent(x->backend)) {
        return MCP_X_WRITE;
    }
    x->state = MCP_X_HEAD;
    return MCP_X_READ;
}

static void keep_raw(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    if (x->raw_len + len > x->raw_room) {
        apr_size_t room = x->raw_len + len < 2 * x->raw_room ? 2 * x->raw_room : x->raw_len + len;
        char *grown = apr_palloc(x->r->pool, room);

        if (x->raw_len) {
            memcpy(grown, x->raw, x->raw_len);
        }
        x->raw = grown;
        x->raw_room = room;
    }
    memcpy(x->raw + x->raw_len, buf, len);
    x->raw_len += len;
}

static mcp_exchange_wait_e bad_head(mcp_exchange_t *x, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, x->r, MCP_LOGNO(2044)
                  "no valid response head from %s: %s", x->target.worker->s->name_ex, why);
    mcp_exchange_fail(x, HTTP_BAD_GATEWAY);
    return MCP_X_WORKER;
}

/* A head may be whole: cut it off x->raw. 1xx heads go by. */
static mcp_exchange_wait_e parse_head(mcp_exchange_t *x)
{
    apr_size_t used;
    apr_status_t rv;

    while (x->heads++ < MOST_HEADS) {
        rv = mcp_http_parse_head(&x->head, x->raw, x->raw_len, &used, x->r->pool);
        if (rv == APR_INCOMPLETE) {
            x->heads--;
            return MCP_X_READ;
        }
        if (rv != APR_SUCCESS) {
            return bad_head(x, x->head.error);
        }
        x->raw += used;
        x->raw_len -= used;
        x->raw_room -= used;
        if (x->head.status >= 200) {
            break;
        }
        if (x->head.status == HTTP_SWITCHING_PROTOCOLS) {
            return bad_head(x, "101 without an Upgrade");
        }
    }
    if (x->heads > MOST_HEADS) {
        return bad_head(x, "too many interim responses");
    }
    if (mcp_http_body_init(&x->body, &x->head, x->r->header_only) != APR_SUCCESS) {
        return bad_head(x, x->body.error);
    }
    x->state = MCP_X_ANSWER;
    return MCP_X_WORKER;
}

/* TLS may have more than it gave, which no descriptor tells of: only EAGAIN says that it is dry. */
static apr_status_t receive(mcp_exchange_t *x, char *buf, apr_size_t size, apr_size_t *len)
{
    apr_status_t rv = mcp_backend_recv(x->backend, buf, size, len);

    x->is_dry = rv != APR_SUCCESS || !mcp_backend_is_tls(x->backend);
    return rv;
}

/*
 * What came while the request was being sent was no whole head: an interim one, a part, a TLS record
 * without data. The backend may well wait for the rest of the request.
 */
static mcp_exchange_wait_e go_on_sending(mcp_exchange_t *x)
{
    if (x->state != MCP_X_HEAD || x->send_failed
        || (!is_unsent(x) && !mcp_backend_has_unsent(x->backend))) {
        return x->state == MCP_X_HEAD ? MCP_X_READ : MCP_X_WORKER;
    }
    x->state = MCP_X_SEND;
    return MCP_X_WRITE;
}

static mcp_exchange_wait_e step_head(mcp_exchange_t *x, char *buf, apr_size_t size)
{
    apr_size_t len;
    apr_status_t rv = receive(x, buf, size, &len);

    if (APR_STATUS_IS_EAGAIN(rv)) {
        return go_on_sending(x);
    }
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, x->r, MCP_LOGNO(2045)
                      "%s closed the connection before its response head was whole",
                      x->target.worker->s->name_ex);
        mcp_exchange_fail(x, HTTP_BAD_GATEWAY);
        return MCP_X_WORKER;
    }
    x->bytes_in += (apr_off_t)len;
    keep_raw(x, buf, len);
    parse_head(x);
    return go_on_sending(x);
}

static void body_ended(mcp_exchange_t *x, apr_status_t rv)
{
    if (rv == APR_EOF && x->body.kind == MCP_HTTP_BODY_CLOSE) {
        x->body.done = 1;
    }
    else {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, rv == APR_EOF ? 0 : rv, x->r, MCP_LOGNO(2046)
                      "%s ended the connection in the middle of a response",
                      x->target.worker->s->name_ex);
        x->broken = 1;
    }
    x->state = MCP_X_END;
}

/* Pass on what came: framing off, payload to the client. */
static void pass_on(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    mcp_span_t in = { buf, len };

    x->last_in = mcp_clock_now();
    while (in.len > 0 && !x->body.done) {
        mcp_span_t out;

        if (mcp_http_body_next(&x->body, &in, &out) != APR_SUCCESS) {
            ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, x->r, MCP_LOGNO(2047)
                          "broken response from %s: %s", x->target.worker->s->name_ex,
                          x->body.error);
            x->broken = 1;
            x->state = MCP_X_END;
            return;
        }
        if (out.len && mcp_answer_data(x, out.p, out.len) != APR_SUCCESS) {
            x->state = MCP_X_END;
            return;
        }
    }
    if (x->body.done) {
        x->leftover = in.len > 0;
        x->state = MCP_X_END;
    }
}

/*
 * Put what pass_on() gathered on the wire. On a worker the last of it goes with the end of the
 * request; on the loop it must go now, since it lies in the loop's buffer.
 */
static apr_status_t write_out(mcp_exchange_t *x, int on_worker)
{
    if (on_worker && x->state == MCP_X_END && x->body.done) {
        return APR_SUCCESS;
    }
    if (x->failed || (!x->head_sent && x->holds_first && APR_BRIGADE_EMPTY(x->bb)
                      && x->state == MCP_X_BODY && mcp_clock_now() < x->hold_until)) {
        return APR_SUCCESS;
    }
    if (!APR_BRIGADE_EMPTY(x->bb) || !x->head_sent) {
        x->head_sent = 1;
        x->last_out = x->last_in;
        return mcp_park_write(x->park, x->bb);
    }
    return APR_SUCCESS;
}

static mcp_exchange_wait_e client_left(mcp_exchange_t *x, apr_status_t rv)
{
    if (APR_STATUS_IS_TIMEUP(rv)) {
        drop_client(x);
    }
    x->client_gone = 1;
    x->state = MCP_X_END;
    drop_backend(x);
    return MCP_X_WORKER;
}

static mcp_exchange_wait_e step_body(mcp_exchange_t *x, int on_worker, char *buf, apr_size_t size)
{
    apr_size_t len;
    apr_status_t rv;

    if (x->blocked_since) {
        rv = mcp_park_flush(x->park);
        if (rv != APR_SUCCESS) {
            return client_left(x, rv);
        }
        if (mcp_park_has_pending(x->park)) {
            return MCP_X_CLIENT;
        }
        x->blocked_since = 0;
    }
    if (x->raw_len) {
        char *raw = x->raw;

        len = x->raw_len < WRITE_MOST ? x->raw_len : WRITE_MOST;
        x->raw += len;
        x->raw_len -= len;
        pass_on(x, raw, len);
        x->leftover |= x->body.done && x->raw_len > 0;
    }
    else if (x->body.done) {
        x->state = MCP_X_END;
    }
    else {
        rv = receive(x, buf, size < WRITE_MOST ? size : WRITE_MOST, &len);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            rv = write_out(x, on_worker);
            return rv == APR_SUCCESS ? MCP_X_READ : client_left(x, rv);
        }
        if (rv == APR_SUCCESS) {
            x->bytes_in += (apr_off_t)len;
            pass_on(x, buf, len);
        }
        else {
            body_ended(x, rv);
        }
    }
    rv = x->client_gone ? APR_SUCCESS : write_out(x, on_worker);
    if (rv != APR_SUCCESS) {
        return client_left(x, rv);
    }
    if (x->state == MCP_X_BODY && mcp_park_has_pending(x->park)) {
        start_blocking(x);
        return MCP_X_CLIENT;
    }
    return MCP_X_READ;
}

/* Whether there is more to read that no event will tell of. */
static int has_more(const mcp_exchange_t *x, mcp_exchange_wait_e wait)
{
    return wait == MCP_X_READ
        && ((x->state == MCP_X_BODY && (x->raw_len || !x->is_dry))
            || (x->state == MCP_X_HEAD && !x->is_dry));
}

/*
 * Go on until something has to be waited for. One read of the body at a time, so that a loop serves
 * all its streams in turn; of TLS, which must be read until it is dry, a few.
 */
static mcp_exchange_wait_e advance(mcp_exchange_t *x, int on_worker, char *buf, apr_size_t size)
{
    mcp_exchange_wait_e wait = MCP_X_READ;
    int rounds = 0;

    x->is_dry = 1;
    for (;;) {
        mcp_exchange_state_e before = x->state;

        switch (x->state) {
        case MCP_X_CONNECT:
            wait = step_connect(x);
            break;
        case MCP_X_HANDSHAKE:
            wait = step_handshake(x, on_worker);
            break;
        case MCP_X_SEND:
            wait = step_send(x);
            if (x->state == MCP_X_HEAD) {
                return wait;
            }
            break;
        case MCP_X_HEAD:
            wait = step_head(x, buf, size);
            break;
        case MCP_X_ANSWER:
            if (!on_worker) {
                return MCP_X_WORKER;
            }
            mcp_answer_head(x);
            break;
        case MCP_X_BODY:
            wait = step_body(x, on_worker, buf, size);
            break;
        case MCP_X_END:
            return MCP_X_WORKER;
        }
        if (x->state == before && !has_more(x, wait)) {
            return wait;
        }
        if (x->state == before && ++rounds > MOST_ROUNDS) {
            return MCP_X_NOW;
        }
    }
}

/* ---- on the loop ---- */

static void stop_waiting(mcp_exchange_t *x)
{
    mcp_loop_t *loop = mcp_park_loop(x->park);

    mcp_watch_stop(loop, &x->watch);
    mcp_timer_stop(loop, &x->timer);
    mcp_park_unwatch_client(x->park);
}

static int run_on_worker(mcp_park_t *park, void *baton);

static void go_to_worker(mcp_exchange_t *x)
{
    stop_waiting(x);
    mcp_park_work(x->park, run_on_worker, x);
}

static void on_rest(mcp_timer_t *timer)
{
    mcp_exchange_t *x = timer->baton;
    mcp_loop_t *loop = mcp_park_loop(x->park);
    apr_time_t now = mcp_loop_now(loop);

    if (mcp_loop_load(loop) >= REST_BUSY && now < x->gone_at + REST_MOST) {
        mcp_timer_start(loop, timer, now + REST_AFTER);
        return;
    }
    go_to_worker(x);
}

/*
 * The backend is told at once, and not when a worker is free: for MCP this is the cancellation. The
 * rest waits until the loop has nothing better to do, since clients that leave together would
 * otherwise wait for each other's logs.
 */
static void client_is_gone(mcp_park_t *park, void *baton)
{
    mcp_exchange_t *x = baton;
    mcp_loop_t *loop = mcp_park_loop(park);

    x->client_gone = 1;
    x->state = MCP_X_END;
    drop_backend(x);
    stop_waiting(x);
    x->gone_at = mcp_loop_now(loop);
    x->timer.fn = on_rest;
    mcp_timer_start(loop, &x->timer, x->gone_at + REST_AFTER);
}

static void on_client_writable(mcp_park_t *park, void *baton);

static void wait_for(mcp_exchange_t *x, mcp_exchange_wait_e wait)
{
    mcp_loop_t *loop = mcp_park_loop(x->park);
    apr_time_t when = deadline(x);
    unsigned events = 0;

    switch (wait) {
    case MCP_X_WORKER:
        go_to_worker(x);
        return;
    case MCP_X_READ:
        events = EPOLLIN;
        break;
    case MCP_X_WRITE:
        /* A backend may answer before it has read everything. */
        events = x->state == MCP_X_SEND ? EPOLLOUT | EPOLLIN : EPOLLOUT;
        break;
    case MCP_X_CLIENT:
        mcp_park_on_client_writable(x->park, on_client_writable, x);
        break;
    case MCP_X_LATER:
        when = earlier(when, mcp_loop_now(loop) + HANDSHAKE_RETRY);
        break;
    case MCP_X_NOW:
        x->goes_on = 1;
        when = mcp_loop_now(loop);
        break;
    }
    if (events && (!x->watch.active || x->watch.fd != mcp_backend_fd(x->backend))) {
        mcp_watch_stop(loop, &x->watch);
        if (mcp_watch_start(loop, &x->watch, mcp_backend_fd(x->backend), events) != APR_SUCCESS) {
            /* No fault of the member's; what was sent must not go to another one. */
            x->broken = x->head_sent;
            mcp_exchange_fail(x, HTTP_INTERNAL_SERVER_ERROR);
            go_to_worker(x);
            return;
        }
    }
    else if (x->watch.active && x->watch.events != events) {
        if (events) {
            mcp_watch_change(loop, &x->watch, events);
        }
        else {
            mcp_watch_stop(loop, &x->watch);
        }
    }
    /* A timer that fires too early looks again; only one that would be late is moved. */
    if (!x->timer.slot || x->timer.when > when) {
        mcp_timer_start(loop, &x->timer, when);
    }
}

static void go_on(mcp_exchange_t *x)
{
    apr_size_t size;
    char *buf = mcp_loop_buffer(mcp_park_loop(x->park), &size);

    wait_for(x, advance(x, 0, buf, size));
}

static void on_backend_event(mcp_watch_t *watch, unsigned events)
{
    mcp_exchange_t *x = watch->baton;

    if (x->state == MCP_X_SEND && events & EPOLLIN && !(events & EPOLLOUT)) {
        x->state = MCP_X_HEAD;
    }
    go_on(x);
}

static void on_client_writable(mcp_park_t *park, void *baton)
{
    mcp_exchange_t *x = baton;

    if (x->blocked_since) {
        start_blocking(x);
    }
    go_on(x);
}

static void on_timer(mcp_timer_t *timer)
{
    mcp_exchange_t *x = timer->baton;

    if (x->goes_on) {
        x->goes_on = 0;
        go_on(x);
        return;
    }
    look_at_clock(x);
    if (x->state == MCP_X_HANDSHAKE) {
        go_to_worker(x);
        return;
    }
    if (x->state == MCP_X_END) {
        go_to_worker(x);
    }
    else if (!x->blocked_since && x->state == MCP_X_BODY && mcp_park_has_pending(x->park)) {
        start_blocking(x);
        wait_for(x, MCP_X_CLIENT);
    }
    else {
        mcp_timer_start(mcp_park_loop(x->park), timer, deadline(x));
    }
}

/*
 * This child is to go: standing streams, and requests for one, end spread over the drain time, at an
 * event's end; whatever else is in flight may take as long as a response may.
 */
static void on_drain(mcp_park_t *park, void *baton)
{
    mcp_exchange_t *x = baton;
    apr_interval_time_t spread = mcp_proxy_server_conf(MCP_PROXY_DRAIN_TIMEOUT);
    apr_time_t now = mcp_clock_now();

    /* Its client has left: the timer runs for its end, which is near. */
    if (x->client_gone) {
        return;
    }
    /* Only what turns out to be a standing stream has less time than it was given at first. */
    if (x->drain_at && (!x->is_standing || x->drain_until <= now + spread)) {
        return;
    }
    if (x->is_standing || (!x->head_sent && x->expects_stream)) {
        x->drain_at = now + (apr_time_t)((double)spread * (rand() / (RAND_MAX + 1.0)));
        x->drain_until = now + spread;
    }
    else {
        x->drain_at = x->drain_until = now + conf(x, MCP_PROXY_RESPONSE_TIMEOUT);
    }
    mcp_timer_start(mcp_park_loop(park), &x->timer, deadline(x));
}

static void start_on_loop(mcp_park_t *park, void *baton)
{
    mcp_exchange_t *x = baton;

    x->watch.fn = on_backend_event;
    x->watch.baton = x;
    x->timer.fn = on_timer;
    x->timer.baton = x;
    mcp_park_on_client_gone(park, client_is_gone, x);
    if (x->is_standing) {
        hold_session(x, mcp_clock_now());
    }
    mcp_park_on_drain(park, on_drain, x);
    /* Last: what is called here may give the request to a worker. */
    if (x->state == MCP_X_HANDSHAKE) {
        wait_for(x, MCP_X_LATER);
    }
    else {
        go_on(x);
    }
}

/* ---- on a worker ---- */

static int half_of_the_workers(void)
{
    static int half;
    int threads = 0;

    if (!half) {
        ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
        half = threads > 1 ? threads / 2 : 1;
    }
    return half;
}

/* Most answers come within a few milliseconds: less than parking costs. */
static int comes_soon(const mcp_exchange_t *x, mcp_exchange_wait_e wait, apr_time_t until)
{
    struct pollfd pfd = { .fd = -1 };
    apr_interval_time_t left = until - mcp_clock_now();
    int ready = 0;

    if (wait == MCP_X_NOW) {
        return 1;
    }
    if (left <= 0 || (wait != MCP_X_READ && wait != MCP_X_WRITE)
        || (x->is_standing && x->state == MCP_X_BODY)) {
        return 0;
    }
    if (__atomic_add_fetch(&waiting_workers, 1, __ATOMIC_RELAXED) <= half_of_the_workers()) {
        pfd.fd = mcp_backend_fd(x->backend);
        pfd.events = wait == MCP_X_READ ? POLLIN : POLLOUT;
        ready = poll(&pfd, 1, (int)((left + 999) / 1000)) > 0;
    }
    __atomic_sub_fetch(&waiting_workers, 1, __ATOMIC_RELAXED);
    return ready;
}

/* A request on its own thread may have no loop, out of descriptors: it ends, and lets go of all. */
static int leave(mcp_exchange_t *x)
{
    int status = mcp_park_leave(x->park, start_on_loop, x);

    if (status == HTTP_INTERNAL_SERVER_ERROR && x->state != MCP_X_END) {
        x->broken = x->head_sent;
        mcp_exchange_fail(x, status);
        status = mcp_exchange_finish(x);
    }
    return status;
}

static int run_on_worker(mcp_park_t *park, void *baton)
{
    mcp_exchange_t *x = baton;
    apr_time_t until = mcp_clock_now() + GRACE;
    char buf[WORKER_BUFFER];

    for (;;) {
        mcp_exchange_wait_e wait;

        if (x->state == MCP_X_END) {
            return mcp_exchange_finish(x);
        }
        wait = advance(x, 1, buf, sizeof(buf));
        if (x->state != MCP_X_END && !comes_soon(x, wait, until)) {
            x->left = x->left || mcp_park_is_async(park);
            if (x->is_stream) {
                mcp_park_settle(park);
            }
            return leave(x);
        }
    }
}

/* A request that keeps its thread writes through the socket's own timeout. */
static int run_on_own_thread(mcp_exchange_t *x)
{
    conn_rec *c = x->r->connection;
    apr_socket_t *sock = c->master ? NULL : ap_get_conn_socket(c);
    apr_interval_time_t saved;
    int status;

    if (!sock || apr_socket_timeout_get(sock, &saved) != APR_SUCCESS) {
        return run_on_worker(x->park, x);
    }
    apr_socket_timeout_set(sock, conf(x, MCP_PROXY_WRITE_TIMEOUT));
    status = run_on_worker(x->park, x);
    apr_socket_timeout_set(sock, saved);
    return status;
}

int mcp_exchange_run(mcp_exchange_t *x)
{
    if (!mcp_park_is_async(x->park)) {
        return run_on_own_thread(x);
    }
    /* A stream is about to leave its worker anyway. */
    if (!x->expects_stream && !mcp_park_is_home(x->park)) {
        x->left = 1;
        return mcp_park_move(x->park, run_on_worker, x);
    }
    return run_on_worker(x->park, x);
}
