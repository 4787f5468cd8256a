/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of one exchange. mcp_exchange_advance() goes as far as it can without waiting
 * and says what it waits for; it runs on whatever thread has the exchange.
 */
#include "mcp_proxy_exchange.h"

#include <poll.h>

#include "mcp_clock.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_rescue.h"

/* One write to the client stays well below the 64 KB at which the core output filter waits. */
#define WRITE_MOST (32 * 1024)
/* Reads in a row for one exchange. */
#define MOST_ROUNDS 16
/* A response, with the interim ones before it. */
#define MOST_HEADS 20

apr_int64_t mcp_exchange_conf(const mcp_exchange_t *x, mcp_proxy_directive_e id)
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

void mcp_exchange_client_left(mcp_exchange_t *x, apr_time_t when)
{
    x->client_gone = 1;
    x->gone_at = when;
    x->state = MCP_X_END;
}

/* The watch goes first: a closed descriptor's number may be another one's at once. */
void mcp_exchange_drop_backend(mcp_exchange_t *x)
{
    if (x->watch.active && x->backend && x->watch.fd == mcp_backend_fd(x->backend)) {
        mcp_watch_forget(mcp_park_loop(x->park), &x->watch);
    }
    if (x->backend) {
        mcp_backend_close(x->backend);
        x->backend = NULL;
        if (x->client_gone) {
            mcp_shared_time_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_DISCONNECT_TIME,
                                mcp_clock_now() - x->gone_at);
        }
    }
}

int mcp_exchange_fd(const mcp_exchange_t *x)
{
    short events;

    return x->state == MCP_X_STORE ? mcp_far_put_fd(x->put, &events) : mcp_backend_fd(x->backend);
}

void mcp_exchange_store(mcp_exchange_t *x)
{
    if (x->q->looked_up) {
        x->put = mcp_far_put_start(x->r, &x->q->key, x->target.worker);
    }
}

/* Whoever learnt a session is done with what it was at. */
static void enter_store(mcp_exchange_t *x)
{
    if (x->put && x->state != MCP_X_STORE) {
        mcp_park_keep(x->park, x->bb);
        x->after_store = x->state;
        x->state = MCP_X_STORE;
    }
}

static mcp_exchange_wait_e step_store(mcp_exchange_t *x)
{
    short events;

    /* A step may give the descriptor away. */
    if (x->watch.active) {
        mcp_watch_stop(mcp_park_loop(x->park), &x->watch);
    }
    if (mcp_far_put_step(x->put) == APR_EAGAIN) {
        mcp_far_put_fd(x->put, &events);
        return events & POLLOUT ? MCP_X_WRITE : MCP_X_READ;
    }
    x->put = NULL;
    x->state = x->after_store;
    return MCP_X_READ;
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
            mcp_exchange_drop_backend(x);
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
    apr_time_t until = x->started + mcp_exchange_connect_timeout(x);
    apr_time_t rescue = mcp_rescue_deadline(x);
    apr_status_t rv;

    if (!on_worker) {
        return MCP_X_WORKER;
    }
    until = rescue && rescue < until ? rescue : until;
    rv = mcp_backend_handshake(x->backend, x->r, until - mcp_clock_now());
    if (rv == APR_EAGAIN) {
        return MCP_X_LATER;
    }
    if (rv != APR_SUCCESS && mcp_clock_now() >= until) {
        mcp_exchange_time_out(x, HTTP_SERVICE_UNAVAILABLE,
                              until == rescue ? MCP_RESCUE_STEP_TIME
                                              : mcp_exchange_connect_timeout_name(x));
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
            mcp_exchange_drop_backend(x);
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

/* What is read off x->raw is no room for what comes: a rescue has several answers. */
static char *take_raw(mcp_exchange_t *x, apr_size_t len)
{
    char *taken = x->raw;

    x->raw += len;
    x->raw_len -= len;
    x->raw_room -= len;
    return taken;
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
        take_raw(x, used);
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
 * What came while the request was being sent was no whole head: an interim one, a part, a TLS
 * record without data. The backend may well wait for the rest of the request.
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
apr_status_t mcp_exchange_write_out(mcp_exchange_t *x, int on_worker)
{
    if (mcp_rescue_is_own(x) || (on_worker && x->state == MCP_X_END && x->body.done)) {
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

/*
 * Bytes of a stream have gone out. What counts is the time since this thread could know of them: on
 * the loop, since its round began. A client that does not take them is not the gateway's delay.
 */
static void note_event(mcp_exchange_t *x, int on_worker)
{
    apr_time_t since = on_worker ? x->last_in : mcp_loop_now(mcp_park_loop(x->park));

    mcp_streams_note(x, since, mcp_clock_now());
}

static mcp_exchange_wait_e client_left(mcp_exchange_t *x, apr_status_t rv)
{
    if (APR_STATUS_IS_TIMEUP(rv)) {
        mcp_exchange_drop_client(x);
    }
    mcp_exchange_client_left(x, mcp_clock_now());
    mcp_exchange_drop_backend(x);
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
        len = x->raw_len < WRITE_MOST ? x->raw_len : WRITE_MOST;
        pass_on(x, take_raw(x, len), len);
        x->leftover |= x->body.done && x->raw_len > 0;
    }
    else if (x->body.done) {
        x->state = MCP_X_END;
    }
    else {
        rv = receive(x, buf, size < WRITE_MOST ? size : WRITE_MOST, &len);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            rv = mcp_exchange_write_out(x, on_worker);
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
    if (x->put) {
        enter_store(x);
        return MCP_X_READ;
    }
    rv = x->client_gone ? APR_SUCCESS : mcp_exchange_write_out(x, on_worker);
    if (rv != APR_SUCCESS) {
        return client_left(x, rv);
    }
    if (x->state == MCP_X_BODY && mcp_park_has_pending(x->park)) {
        mcp_exchange_block(x);
        return MCP_X_CLIENT;
    }
    if (x->is_stream && x->head_sent && x->state == MCP_X_BODY) {
        note_event(x, on_worker);
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
mcp_exchange_wait_e mcp_exchange_advance(mcp_exchange_t *x, int on_worker, char *buf,
                                         apr_size_t size)
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
            enter_store(x);
            break;
        case MCP_X_STORE:
            wait = step_store(x);
            break;
        case MCP_X_BODY:
            wait = step_body(x, on_worker, buf, size);
            break;
        case MCP_X_TURN:
            mcp_single_look_again(x);
            wait = MCP_X_LATER;
            break;
        case MCP_X_WAIT:
            if (on_worker) {
                mcp_rescue_look_again(x);
            }
            wait = MCP_X_LATER;
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
