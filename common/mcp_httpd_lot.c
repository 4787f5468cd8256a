/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection that has left the MPM, between two requests: its answer is written out, it is kept
 * alive, closed, and its memory given back. httpd 2.4 does this for connections of its own only.
 */
#include "mcp_httpd_parked.h"

#include <errno.h>
#include <http_connection.h>
#include <mpm_common.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "mcp_clock.h"

#define LINGER_TIMEOUT apr_time_from_sec(2)
/* The worker that let a connection go still writes to its memory: see retire(). */
#define RETIRED_FOR apr_time_from_sec(5)
#define RETIRE_ROUND apr_time_from_msec(20)
#define RETIRE_MOST 64

void mcp_lot_take_over(conn_rec *c, request_rec *r)
{
    c->current_thread = ap_thread_current();
    c->sbh = NULL;
    ap_run_resume_connection(c, r);
}

/* On the loop, which keeps the list. */
static void retire(void *baton)
{
    retired_t *old = baton;
    park_thread_t *home = old->home;

    old->when = mcp_loop_now(home->loop) + RETIRED_FOR;
    old->next = NULL;
    *home->retired_tail = old;
    home->retired_tail = &old->next;
    if (!home->retire_timer.slot) {
        mcp_timer_start(home->loop, &home->retire_timer, old->when);
    }
}

void mcp_lot_destroy_retired(mcp_timer_t *timer)
{
    park_thread_t *home = timer->baton;
    apr_time_t now = mcp_loop_now(home->loop);
    int most = RETIRE_MOST;

    while (home->retired && home->retired->when <= now && most--) {
        retired_t *old = home->retired;

        home->retired = old->next;
        if (!home->retired) {
            home->retired_tail = &home->retired;
        }
        apr_pool_destroy(old->pool);
        free(old);
    }
    if (home->retired) {
        mcp_timer_start(home->loop, timer, home->retired->when > now + RETIRE_ROUND
                        ? home->retired->when : now + RETIRE_ROUND);
    }
}

/*
 * On a crew thread. The lot is gone afterwards: it lives in the pool, which is cleared now, since
 * giving thousands of them back would hold the loop up, and destroyed some seconds later, since the
 * worker that ran the suspend_connection hook still writes two members of the connection after it.
 */
static void end_connection(lot_t *lot)
{
    conn_rec *c = lot->c;
    apr_pool_t *pool = c->pool;
    park_thread_t *home = lot->home;
    retired_t *old = malloc(sizeof(*old));

    /* The MPM counted it as suspended, and counts it off by this state. */
    c->cs->state = CONN_STATE_SUSPENDED;
    /* What it lets go of returns to the system now, all but the pool itself. */
    apr_allocator_max_free_set(apr_pool_allocator_get(pool), 1);
    apr_pool_clear(pool);
    if (old) {
        old->pool = pool;
        old->home = home;
        old->post = (mcp_post_t){ .fn = retire, .baton = old };
        mcp_loop_post(home->loop, &old->post);
    }
}

static void lot_event(void *baton, int is_late);

/*
 * How long the client may take for what is kept of an answer, before it takes something again. In a
 * child that is to go that is how long it may take for all of it.
 */
static apr_time_t write_until(const lot_t *lot)
{
    apr_time_t now = mcp_clock_now();
    apr_time_t since = mcp_park_env.draining ? mcp_park_env.drained_since : now;
    apr_time_t until = since + lot->c->base_server->timeout;

    return until > now ? until : now;
}

static void wait_on_crew(lot_t *lot, int phase, apr_time_t until)
{
    lot->phase = phase;
    lot->wait.fd = lot->fd;
    lot->wait.events = phase == LOT_WRITES ? EPOLLOUT : EPOLLIN | EPOLLRDHUP;
    lot->wait.may_hurry = phase == LOT_IDLE;
    lot->wait.fn = lot_event;
    lot->wait.baton = lot;
    if (mcp_crew_wait(mcp_park_env.crew, &lot->wait, until) != APR_SUCCESS) {
        end_connection(lot);
    }
}

static void drain_lingering(lot_t *lot)
{
    char buf[4096];
    ssize_t n;

    do {
        n = recv(lot->fd, buf, sizeof(buf), MSG_DONTWAIT);
    } while (n > 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        wait_on_crew(lot, LOT_LINGERS, lot->until);
    }
    else {
        end_connection(lot);
    }
}

/* What is left of a connection's close that may write. */
static void close_connection(lot_t *lot)
{
    conn_rec *c = lot->c;

    c->cs->state = CONN_STATE_SUSPENDED;
    if (c->aborted || ap_start_lingering_close(c)) {
        end_connection(lot);
        return;
    }
    lot->until = mcp_clock_now() + LINGER_TIMEOUT;
    wait_on_crew(lot, LOT_LINGERS, lot->until);
}

/* A request that came just before the time was over. */
static int has_bytes(int fd)
{
    int bytes = 0;

    return ioctl(fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

static void lot_event(void *baton, int is_late)
{
    lot_t *lot = baton;
    conn_rec *c = lot->c;

    if (lot->phase == LOT_LINGERS) {
        if (is_late) {
            end_connection(lot);
        }
        else {
            drain_lingering(lot);
        }
        return;
    }
    mcp_lot_take_over(c, NULL);
    if (is_late && !(lot->phase == LOT_IDLE && has_bytes(lot->fd))) {
        c->aborted = lot->phase == LOT_WRITES;
        close_connection(lot);
        return;
    }
    if (lot->phase == LOT_IDLE) {
        c->cs->state = CONN_STATE_PROCESSING;
        ap_run_process_connection(c);
    }
    mcp_lot_next(lot);
}

/* On a worker that has the connection: what the MPM would do with c->cs->state. */
void mcp_lot_next(lot_t *lot)
{
    conn_rec *c = lot->c;
    server_rec *s = c->base_server;

    while (c->cs->state == CONN_STATE_WRITE_COMPLETION || c->cs->state == CONN_STATE_KEEPALIVE) {
        if (c->aborted || mcp_park_write_kept(c) != APR_SUCCESS) {
            break;
        }
        if (c->data_in_output_filters) {
            c->cs->state = CONN_STATE_WRITE_COMPLETION;
            wait_on_crew(lot, LOT_WRITES, write_until(lot));
            return;
        }
        if (c->keepalive != AP_CONN_KEEPALIVE) {
            break;
        }
        if (!c->data_in_input_filters) {
            wait_on_crew(lot, LOT_IDLE, mcp_clock_now() + s->keep_alive_timeout);
            return;
        }
        c->cs->state = CONN_STATE_PROCESSING;
        ap_run_process_connection(c);
    }
    if (c->cs->state == CONN_STATE_SUSPENDED) {
        ap_run_suspend_connection(c, NULL);
        return;
    }
    close_connection(lot);
}
