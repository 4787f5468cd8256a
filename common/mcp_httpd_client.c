/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of a parked request: writing to it, and watching whether it is still there. */
#include "mcp_httpd_parked.h"

#include <ap_mpm.h>
#include <apr_portable.h>
#include <errno.h>
#include <http_core.h>
#include <http_ssl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <util_filter.h>

#define ABORT_TICK apr_time_from_msec(20)
/* TLS records without data that are read in a row. */
#define MOST_RECORDS 16
#define STOP_TICK apr_time_from_msec(500)

static apr_status_t nudge_read(apr_bucket *b, const char **str, apr_size_t *len,
                               apr_read_type_e block)
{
    *str = NULL;
    *len = 0;
    return APR_SUCCESS;
}

/*
 * Metadata that means nothing: filters that gather small writes (mod_ssl's) pass on what they hold
 * when they meet metadata, and unlike a flush it does not make the core wait.
 */
static const apr_bucket_type_t nudge_type = {
    "MCP_NUDGE", 5, APR_BUCKET_METADATA, apr_bucket_destroy_noop, nudge_read,
    apr_bucket_setaside_noop, apr_bucket_split_notimpl, apr_bucket_simple_copy
};

apr_bucket *mcp_park_nudge(apr_bucket_alloc_t *list)
{
    apr_bucket *b = apr_bucket_alloc(sizeof(*b), list);

    APR_BUCKET_INIT(b);
    b->type = &nudge_type;
    b->length = 0;
    b->start = 0;
    b->data = NULL;
    b->list = list;
    b->free = apr_bucket_free;
    return b;
}

apr_status_t mcp_park_write_kept(conn_rec *c)
{
    ap_filter_t *f = c->output_filters;

    while (f->next) {
        f = f->next;
    }
    return f->frec->filter_func.out_func(f, NULL);
}

int mcp_park_has_raw_input(conn_rec *c, apr_bucket_brigade *bb)
{
    ap_filter_t *f = c->input_filters;
    int is_there;

    while (f->next) {
        f = f->next;
    }
    is_there = ap_get_brigade(f, bb, AP_MODE_SPECULATIVE, APR_NONBLOCK_READ, 1) == APR_SUCCESS
        && !APR_BRIGADE_EMPTY(bb);
    apr_brigade_cleanup(bb);
    return is_there;
}

apr_bucket *mcp_park_lend(mcp_park_t *park, const char *buf, apr_size_t len)
{
    apr_bucket_alloc_t *list = park->r->connection->bucket_alloc;

    return park->is_on_loop ? mcp_lender_lend(&park->lender, buf, len, list)
                            : apr_bucket_transient_create(buf, len, list);
}

apr_status_t mcp_park_write(mcp_park_t *park, apr_bucket_brigade *bb)
{
    conn_rec *c = park->r->connection;
    apr_bucket *tail = park->is_async ? mcp_park_nudge(c->bucket_alloc)
                                      : apr_bucket_flush_create(c->bucket_alloc);
    apr_status_t rv;

    APR_BRIGADE_INSERT_TAIL(bb, tail);
    rv = ap_pass_brigade(park->r->output_filters, bb);
    apr_brigade_cleanup(bb);
    if (rv == APR_SUCCESS && park->is_async) {
        rv = mcp_park_write_kept(c);
    }
    mcp_lender_repay(&park->lender);
    return rv == APR_SUCCESS && c->aborted ? APR_ECONNABORTED : rv;
}

void mcp_park_keep(mcp_park_t *park, apr_bucket_brigade *bb)
{
    apr_bucket *e;

    for (e = APR_BRIGADE_FIRST(bb); e != APR_BRIGADE_SENTINEL(bb); e = APR_BUCKET_NEXT(e)) {
        apr_bucket_setaside(e, park->r->pool);
    }
    mcp_lender_repay(&park->lender);
}

apr_status_t mcp_park_flush(mcp_park_t *park)
{
    conn_rec *c = park->r->connection;
    apr_status_t rv = mcp_park_write_kept(c);

    return c->aborted ? APR_ECONNABORTED : rv;
}

/* HTTP/2 shares the connection among requests, and has its own ideas of it. */
static int client_fd(const mcp_park_t *park)
{
    conn_rec *c = park->r->connection;
    apr_os_sock_t fd = -1;

    if (!c->master) {
        apr_os_sock_get(&fd, ap_get_conn_socket(c));
    }
    return fd;
}

void mcp_park_set_patience(mcp_park_t *park, apr_interval_time_t patience)
{
    unsigned ms = (unsigned)((patience + 999) / 1000);
    int fd = client_fd(park);

    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
    }
}

int mcp_park_has_lost_patience(mcp_park_t *park)
{
    int fd = client_fd(park), error = 0;
    socklen_t size = sizeof(error);

    return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0
        && error == ETIMEDOUT;
}

int mcp_park_unacknowledged(const mcp_park_t *park)
{
    int fd = client_fd(park), bytes = 0;

    return fd >= 0 && ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

apr_interval_time_t mcp_park_silence(const mcp_park_t *park)
{
    struct tcp_info info = { .tcpi_last_ack_recv = 0 };
    socklen_t size = sizeof(info);
    int fd = client_fd(park);

    if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) {
        return 0;
    }
    return apr_time_from_msec((apr_interval_time_t)info.tcpi_last_ack_recv);
}

int mcp_park_has_pending(const mcp_park_t *park)
{
    return park->is_async && park->r->connection->data_in_output_filters;
}

apr_status_t mcp_park_settle(mcp_park_t *park)
{
    return park->is_async ? mcp_memory_spare(park->r) : APR_SUCCESS;
}

void mcp_park_call(mcp_park_t *park, client_call_t *which)
{
    client_call_t now = *which;

    which->fn = NULL;
    if (now.fn) {
        now.fn(park, now.baton);
    }
}

static unsigned wanted_events(const mcp_park_t *park)
{
    return (park->gone.fn || park->readable.fn ? EPOLLRDHUP : 0)
        | (park->readable.fn || (park->gone.fn && park->hears_goodbye) ? EPOLLIN : 0)
        | (park->writable.fn ? EPOLLOUT : 0);
}

/*
 * A TLS client may say goodbye (close_notify) and leave TCP open. What can be read is looked at,
 * not taken: the next request, pipelined, ends this listening.
 */
static int hears_goodbye(mcp_park_t *park)
{
    conn_rec *c = park->r->connection;
    apr_bucket_brigade *bb = apr_brigade_create(park->r->pool, c->bucket_alloc);
    apr_status_t rv;
    int is_empty, rounds = 0;

    do {
        rv = ap_get_brigade(c->input_filters, bb, AP_MODE_SPECULATIVE, APR_NONBLOCK_READ, 1);
        is_empty = APR_BRIGADE_EMPTY(bb);
        apr_brigade_cleanup(bb);
        is_empty = APR_STATUS_IS_EAGAIN(rv) || (rv == APR_SUCCESS && is_empty);
    } while (is_empty && ++rounds < MOST_RECORDS && mcp_park_has_raw_input(c, bb));
    apr_brigade_destroy(bb);
    if (is_empty) {
        return 0;
    }
    if (rv == APR_SUCCESS) {
        park->hears_goodbye = 0;
        mcp_watch_change(park->loop, &park->client, wanted_events(park));
        return 0;
    }
    return 1;
}

static void client_event(mcp_watch_t *watch, unsigned events)
{
    mcp_park_t *park = watch->baton;
    unsigned gone = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);

    if (gone && park->gone.fn) {
        mcp_park_call(park, &park->gone);
        return;
    }
    if ((events & EPOLLIN || gone) && park->readable.fn) {
        mcp_park_call(park, &park->readable);
        return;
    }
    if (events & EPOLLIN && park->gone.fn && hears_goodbye(park)) {
        mcp_park_call(park, &park->gone);
        return;
    }
    if ((events & EPOLLOUT || gone) && park->writable.fn) {
        client_call_t now = park->writable;

        park->writable.fn = NULL;
        mcp_watch_change(park->loop, watch, wanted_events(park));
        now.fn(park, now.baton);
    }
}

/* A prefork child that serves a request gets no hook when it is to go: only its state tells. */
static int is_stopping(void)
{
    int mpm_state = AP_MPMQ_RUNNING;

    return mcp_park_env.draining || (ap_mpm_query(AP_MPMQ_MPM_STATE, &mpm_state) == APR_SUCCESS
                                     && mpm_state == AP_MPMQ_STOPPING);
}

/*
 * A request on its own thread has a loop that nobody else knows. It looks itself whether the child
 * is to go, and, for HTTP/2, where the stream has no socket, at the flag that mod_http2 sets.
 */
void mcp_park_look_around(mcp_timer_t *timer)
{
    mcp_park_t *park = timer->baton;

    mcp_timer_start(park->loop, timer, mcp_loop_now(park->loop)
                    + (park->r->connection->master ? ABORT_TICK : STOP_TICK));
    if (is_stopping()) {
        mcp_park_call(park, &park->drain);
    }
    if (park->r->connection->aborted || mcp_park_env.hurried) {
        mcp_park_call(park, &park->gone);
    }
}

static void watch_client(mcp_park_t *park)
{
    conn_rec *c = park->r->connection;
    apr_os_sock_t fd;

    if (c->master) {
        return;
    }
    if (park->client.active) {
        mcp_watch_change(park->loop, &park->client, wanted_events(park));
        return;
    }
    apr_os_sock_get(&fd, ap_get_conn_socket(c));
    park->hears_goodbye = ap_ssl_conn_is_ssl(c);
    park->client.fn = client_event;
    park->client.baton = park;
    if (mcp_watch_start(park->loop, &park->client, fd, wanted_events(park)) != APR_SUCCESS) {
        c->aborted = 1;
    }
}

void mcp_park_on_client_gone(mcp_park_t *park, mcp_park_fn *fn, void *baton)
{
    park->gone = (client_call_t){ fn, baton };
    watch_client(park);
}

void mcp_park_on_client_readable(mcp_park_t *park, mcp_park_fn *fn, void *baton)
{
    park->readable = (client_call_t){ fn, baton };
    watch_client(park);
}

void mcp_park_on_client_writable(mcp_park_t *park, mcp_park_fn *fn, void *baton)
{
    park->writable = (client_call_t){ fn, baton };
    watch_client(park);
}

void mcp_park_unwatch_client(mcp_park_t *park)
{
    park->gone.fn = park->readable.fn = park->writable.fn = NULL;
    mcp_watch_stop(park->loop, &park->client);
}
