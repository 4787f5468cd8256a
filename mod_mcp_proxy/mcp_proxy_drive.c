/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What drives an exchange. A worker polls for a few milliseconds, since most calls are answered by
 * then; after that the request is parked and its loop drives. Whatever may block, or runs other
 * modules' code, happens on a worker: heads, ends, retries. A function that hands the exchange over
 * touches nothing of it afterwards.
 */
#include "mcp_proxy_exchange.h"

#include <ap_mpm.h>
#include <http_core.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "mcp_clock.h"
#include "mcp_proxy_rescue.h"

#define WORKER_BUFFER (16 * 1024)
#define GRACE apr_time_from_msec(5)
#define HANDSHAKE_RETRY apr_time_from_msec(20)
#define REST_AFTER apr_time_from_msec(10)
#define REST_MOST apr_time_from_msec(250)
#define REST_BUSY 16

/* Workers that wait for a fast answer right now; no more than half of them may. */
static int waiting_workers;

/* ---- on the loop ---- */

static void stop_waiting(mcp_exchange_t *x)
{
    mcp_loop_t *loop = mcp_park_loop(x->park);

    mcp_watch_stop(loop, &x->watch);
    mcp_timer_stop(loop, &x->timer);
    mcp_park_unwatch_client(x->park);
    mcp_streams_leave(x);
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

    if (x->is_stream && mcp_park_has_lost_patience(park)) {
        mcp_exchange_drop_client(x);
    }
    else {
        mcp_exchange_client_left(x, mcp_loop_now(loop));
    }
    mcp_exchange_drop_backend(x);
    stop_waiting(x);
    x->timer.fn = on_rest;
    mcp_timer_start(loop, &x->timer, x->gone_at + REST_AFTER);
}

static void on_client_writable(mcp_park_t *park, void *baton);

void mcp_exchange_wake(mcp_exchange_t *x, apr_time_t when)
{
    if (!x->timer.slot || x->timer.when > when) {
        mcp_timer_start(mcp_park_loop(x->park), &x->timer, when);
    }
}

static void wait_for(mcp_exchange_t *x, mcp_exchange_wait_e wait)
{
    mcp_loop_t *loop = mcp_park_loop(x->park);
    apr_time_t when = mcp_exchange_deadline(x);
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
        when = when < mcp_loop_now(loop) + HANDSHAKE_RETRY ? when
                                                           : mcp_loop_now(loop) + HANDSHAKE_RETRY;
        break;
    case MCP_X_NOW:
        x->goes_on = 1;
        when = mcp_loop_now(loop);
        break;
    }
    if (events && (!x->watch.active || x->watch.fd != mcp_exchange_fd(x))) {
        mcp_watch_stop(loop, &x->watch);
        if (mcp_watch_start(loop, &x->watch, mcp_exchange_fd(x), events) != APR_SUCCESS) {
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
    mcp_exchange_wake(x, when);
}

static void go_on(mcp_exchange_t *x)
{
    apr_size_t size;
    char *buf = mcp_loop_buffer(mcp_park_loop(x->park), &size);

    wait_for(x, mcp_exchange_advance(x, 0, buf, size));
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
        mcp_exchange_block(x);
    }
    go_on(x);
}

static int is_claim_due(const mcp_exchange_t *x)
{
    apr_time_t when = x->rescue ? mcp_rescue_renewal(x) : 0;

    return when && when <= mcp_clock_now();
}

static void on_timer(mcp_timer_t *timer)
{
    mcp_exchange_t *x = timer->baton;

    if (x->goes_on) {
        x->goes_on = 0;
        go_on(x);
        return;
    }
    mcp_exchange_look_at_clock(x);
    if (x->state == MCP_X_STORE) {
        go_on(x);
        return;
    }
    if (x->state == MCP_X_HANDSHAKE || x->state == MCP_X_WAIT || x->state == MCP_X_END
        || is_claim_due(x)) {
        go_to_worker(x);
    }
    else if (x->state == MCP_X_TURN) {
        go_on(x);
    }
    else if (!x->blocked_since && x->state == MCP_X_BODY && mcp_park_has_pending(x->park)) {
        mcp_exchange_block(x);
        wait_for(x, MCP_X_CLIENT);
    }
    else {
        mcp_timer_start(mcp_park_loop(x->park), timer, mcp_exchange_deadline(x));
    }
}

/*
 * This child is to go: standing streams, and requests for one, end spread over the drain time, at
 * an event's end; whatever else is in flight may take as long as a response may.
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
    if (x->is_standing || (!x->head_sent && (x->expects_stream || x->is_listen))) {
        x->drain_at = now + (apr_time_t)((double)spread * (rand() / (RAND_MAX + 1.0)));
        x->drain_until = now + spread;
    }
    else {
        x->drain_at = x->drain_until = now + mcp_exchange_conf(x, MCP_PROXY_RESPONSE_TIMEOUT);
    }
    mcp_exchange_wake(x, mcp_exchange_deadline(x));
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
        mcp_exchange_hold_session(x, mcp_clock_now());
    }
    mcp_streams_enter(x);
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
        pfd.fd = mcp_exchange_fd(x);
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

    if (x->rescue) {
        mcp_rescue_renew_claim(x);
    }
    for (;;) {
        mcp_exchange_wait_e wait;

        if (x->state == MCP_X_END && !mcp_rescue_goes_on(x)) {
            return mcp_exchange_finish(x);
        }
        wait = mcp_exchange_advance(x, 1, buf, sizeof(buf));
        if (x->state != MCP_X_END && !comes_soon(x, wait, until)) {
            x->left = x->left || mcp_park_is_async(park);
            if (x->is_stream && mcp_park_settle(park) != APR_SUCCESS) {
                mcp_exchange_client_left(x, mcp_clock_now());
                return mcp_exchange_finish(x);
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
    apr_socket_timeout_set(sock, mcp_exchange_conf(x, MCP_PROXY_WRITE_TIMEOUT));
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
