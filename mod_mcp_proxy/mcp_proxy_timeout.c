/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time in an exchange: which deadline counts in which state, and what happens when it has come.
 * Timers are lazy: one that fires too early looks again, so that an event costs no timer operation.
 * On the thread that has the exchange.
 */
#include "mcp_proxy_exchange.h"

#include "mcp_clock.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_rescue.h"

#define SESSION_HOLD apr_time_from_sec(90)
#define HEARTBEAT ":\n\n"
/* A client that is there acknowledges what it gets within a round trip, lost packets apart. */
#define DOUBT apr_time_from_sec(3)

static apr_interval_time_t response_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    if (s->timeout_set) {
        return s->timeout;
    }
    return mcp_exchange_conf(x, x->expects_stream ? MCP_PROXY_STREAM_TIMEOUT
                                                  : MCP_PROXY_RESPONSE_TIMEOUT);
}

static apr_interval_time_t stream_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    if (s->timeout_set) {
        return s->timeout;
    }
    return mcp_exchange_conf(x, x->is_stream ? MCP_PROXY_STREAM_TIMEOUT
                                             : MCP_PROXY_RESPONSE_TIMEOUT);
}

apr_interval_time_t mcp_exchange_connect_timeout(const mcp_exchange_t *x)
{
    const proxy_worker_shared *s = x->target.worker->s;

    return s->conn_timeout_set ? s->conn_timeout : mcp_exchange_conf(x, MCP_PROXY_CONNECT_TIMEOUT);
}

const char *mcp_exchange_connect_timeout_name(const mcp_exchange_t *x)
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

/* 0: none. A stream that is rescued has its head, too, while it waits for another. */
static apr_interval_time_t heartbeat_of(const mcp_exchange_t *x)
{
    return x->is_stream && x->head_sent ? mcp_exchange_conf(x, MCP_PROXY_HEARTBEAT) : 0;
}

/* When a child that is to go ends this, should the exchange not have ended before. */
static apr_time_t drain_time(const mcp_exchange_t *x)
{
    return may_write_between(x) && !x->blocked_since ? x->drain_at : x->drain_until;
}

static apr_time_t deadline_of_state(const mcp_exchange_t *x);

/* When something has to be looked at, should nothing happen before. */
apr_time_t mcp_exchange_deadline(const mcp_exchange_t *x)
{
    apr_time_t when = deadline_of_state(x), rescue = x->rescue ? mcp_rescue_deadline(x) : 0;
    apr_time_t renewal = x->rescue ? mcp_rescue_renewal(x) : 0;

    when = x->doubted_since ? earlier(when, x->doubted_since + DOUBT) : when;
    when = rescue ? earlier(when, rescue) : when;
    when = renewal ? earlier(when, renewal) : when;
    return x->drain_at ? earlier(when, drain_time(x)) : when;
}

static apr_time_t deadline_of_state(const mcp_exchange_t *x)
{
    apr_time_t when;

    switch (x->state) {
    case MCP_X_CONNECT:
    case MCP_X_HANDSHAKE:
        return x->started + mcp_exchange_connect_timeout(x);
    case MCP_X_SEND:
    case MCP_X_HEAD:
        when = x->started + response_timeout(x);
        return heartbeat_of(x) ? earlier(when, x->last_out + heartbeat_of(x)) : when;
    case MCP_X_TURN:
        return x->started + mcp_exchange_connect_timeout(x);
    case MCP_X_STORE:
        return mcp_far_put_deadline(x->put);
    case MCP_X_WAIT:
        return mcp_rescue_deadline(x);
    default:
        break;
    }
    if (x->blocked_since) {
        return x->blocked_since + mcp_exchange_conf(x, MCP_PROXY_WRITE_TIMEOUT);
    }
    when = x->last_in + stream_timeout(x);
    if (!x->head_sent && x->holds_first) {
        when = earlier(when, x->hold_until);
    }
    if (heartbeat_of(x)) {
        when = earlier(when, x->last_out + heartbeat_of(x));
    }
    if (x->is_standing && x->q->session_known) {
        when = earlier(when, x->session_held + mcp_far_renew_every());
    }
    return when;
}

static void log_time_out(mcp_exchange_t *x, const char *which)
{
    ap_log_rerror(APLOG_MARK, x->head_sent ? APLOG_INFO : APLOG_ERR, APR_TIMEUP, x->r,
                  MCP_LOGNO(2040) "%s ran out waiting for %s", which, x->target.worker->s->name_ex);
}

void mcp_exchange_time_out(mcp_exchange_t *x, int status, const char *which)
{
    log_time_out(x, which);
    x->timed_out = 1;
    if (x->head_sent) {
        x->broken = 1;
        x->state = MCP_X_END;
        return;
    }
    mcp_exchange_fail(x, status);
}

void mcp_exchange_block(mcp_exchange_t *x)
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

void mcp_exchange_drop_client(mcp_exchange_t *x)
{
    ap_log_rerror(APLOG_MARK, APLOG_INFO, APR_TIMEUP, x->r, MCP_LOGNO(2041)
                  "the client took nothing for MCPProxyWriteTimeout: dropped");
    mcp_exchange_client_left(x, mcp_clock_now());
}

static void beat(mcp_exchange_t *x, apr_time_t now)
{
    apr_bucket_alloc_t *list = x->r->connection->bucket_alloc;

    x->last_out = now;
    if (may_write_between(x)) {
        APR_BRIGADE_INSERT_TAIL(x->bb, apr_bucket_immortal_create(HEARTBEAT, strlen(HEARTBEAT),
                                                                  list));
        if (mcp_park_write(x->park, x->bb) != APR_SUCCESS) {
            mcp_exchange_client_left(x, now);
        }
    }
}

/* What is written to a client that is there is acknowledged soon. */
apr_time_t mcp_exchange_doubt_client(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now();

    x->doubted_since = now;
    if (!x->blocked_since) {
        beat(x, now);
    }
    return x->state == MCP_X_END ? now : mcp_exchange_deadline(x);
}

/* Nothing that is under way, in the middle of an event say, leaves it as it is. */
static int has_fallen_silent(mcp_exchange_t *x, apr_time_t now)
{
    apr_time_t since = x->doubted_since;

    if (!since || now < since + DOUBT) {
        return 0;
    }
    x->doubted_since = 0;
    if (mcp_park_unacknowledged(x->park) == 0 || mcp_park_silence(x->park) < now - since) {
        return 0;
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, APR_TIMEUP, x->r, MCP_LOGNO(2049)
                  "the client does not acknowledge anything, and its session has come back "
                  "elsewhere: dropped");
    mcp_exchange_client_left(x, now);
    return 1;
}

void mcp_exchange_hold_session(mcp_exchange_t *x, apr_time_t now)
{
    apr_uint64_t member;

    x->session_held = now;
    if (x->q->looked_up) {
        mcp_far_use(&x->q->key, NULL, x->target.worker, &member);
        mcp_session_hold(mcp_proxy_sessions(), &x->q->key, now + SESSION_HOLD);
    }
    mcp_rescue_hold(x->q, SESSION_HOLD);
}

void mcp_exchange_close_stream(mcp_exchange_t *x)
{
    x->closed_here = x->is_standing && may_write_between(x) && !x->blocked_since;
    x->broken = !x->closed_here;
    /* It does not take what is kept for it, and would be waited for. */
    x->client_gone = x->blocked_since != 0;
    x->state = MCP_X_END;
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
        mcp_exchange_close_stream(x);
    }
    return 1;
}

/* A member that is to open a session, and is not connected by then, is as one that refuses. */
static void end_rescue_step(mcp_exchange_t *x)
{
    int is_unconnected = mcp_rescue_renewal(x)
        && (x->state == MCP_X_CONNECT || x->state == MCP_X_HANDSHAKE);

    if (x->state != MCP_X_WAIT) {
        log_time_out(x, MCP_RESCUE_STEP_TIME);
    }
    mcp_exchange_fail(x, is_unconnected ? HTTP_SERVICE_UNAVAILABLE : HTTP_GATEWAY_TIME_OUT);
}

/* The deadline has come, or maybe another one meanwhile: see which. */
void mcp_exchange_look_at_clock(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now();

    if (has_drained(x, now)) {
        return;
    }
    if (mcp_rescue_deadline(x) && now >= mcp_rescue_deadline(x)) {
        end_rescue_step(x);
        return;
    }
    switch (x->state) {
    case MCP_X_CONNECT:
    case MCP_X_HANDSHAKE:
        if (now >= x->started + mcp_exchange_connect_timeout(x)) {
            mcp_exchange_time_out(x, HTTP_SERVICE_UNAVAILABLE,
                                  mcp_exchange_connect_timeout_name(x));
        }
        return;
    case MCP_X_SEND:
    case MCP_X_HEAD:
        if (now >= x->started + response_timeout(x)) {
            mcp_exchange_time_out(x, HTTP_GATEWAY_TIME_OUT, silence_name(x, x->expects_stream));
        }
        else if (heartbeat_of(x) && now >= x->last_out + heartbeat_of(x)) {
            beat(x, now);
        }
        return;
    case MCP_X_BODY:
        break;
    default:
        return;
    }
    if (has_fallen_silent(x, now)) {
        return;
    }
    if (x->blocked_since) {
        if (now >= x->blocked_since + mcp_exchange_conf(x, MCP_PROXY_WRITE_TIMEOUT)) {
            if (takes_something(x)) {
                x->blocked_since = now;
            }
            else {
                mcp_exchange_drop_client(x);
            }
        }
        return;
    }
    if (!x->head_sent && x->holds_first && now >= x->hold_until
        && mcp_exchange_write_out(x, 0) != APR_SUCCESS) {
        mcp_exchange_client_left(x, now);
        return;
    }
    if (now >= x->last_in + stream_timeout(x)) {
        mcp_exchange_time_out(x, HTTP_GATEWAY_TIME_OUT, silence_name(x, x->is_stream));
        return;
    }
    if (x->is_standing && now >= x->session_held + mcp_far_renew_every()) {
        mcp_exchange_hold_session(x, now);
    }
    if (heartbeat_of(x) && now >= x->last_out + heartbeat_of(x)) {
        beat(x, now);
    }
}
