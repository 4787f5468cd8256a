/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parking requests, and the connections that they come on, outside the MPM (event-based MPMs of
 * httpd 2.4 know how to let a connection go, not how to take it back). One thread has a connection
 * at any moment: an MPM worker, the loop that the connection belongs to, or a thread of the crew,
 * which does a worker's work from the first parked request on. It leaves a worker through the
 * suspend_connection hook, the loop through mcp_crew_run(), the crew through either of
 * mcp_loop_post() and mcp_crew_wait().
 */
#include "mcp_httpd_park.h"

#include <ap_mpm.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <http_ssl.h>
#include <linux/sockios.h>
#include <mpm_common.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <util_filter.h>

#include "mcp_clock.h"
#include "mcp_httpd_crew.h"
#include "mcp_httpd_log.h"
#include "mcp_httpd_memory.h"

#define MAX_LOOPS 4
#define LINGER_TIMEOUT apr_time_from_sec(2)
/* The worker that let a connection go still writes to its memory: see retire(). */
#define RETIRED_FOR apr_time_from_sec(5)
#define RETIRE_ROUND apr_time_from_msec(20)
#define RETIRE_MOST 64
#define ABORT_TICK apr_time_from_msec(20)
/* TLS records without data that are read in a row. */
#define MOST_RECORDS 16
#define STOP_TICK apr_time_from_msec(500)

typedef struct lot_t lot_t;

/* A pool that was cleared, to be destroyed later. */
typedef struct retired_t {
    struct retired_t *next;
    apr_pool_t *pool;
    apr_time_t when;
    struct park_thread_t *home;
    mcp_post_t post;
} retired_t;

typedef struct park_thread_t {
    mcp_loop_t *loop;
    pthread_t thread;
    mcp_park_t *parked;  /* requests that are on the loop and want to know of a drain */
    retired_t *retired;  /* oldest first */
    retired_t **retired_tail;
    mcp_timer_t retire_timer;
    mcp_post_t drain_post;
} park_thread_t;

/* What this module's copy of the library knows of its child. Set in child_init, then read only. */
static struct {
    module *owner;
    int wanted;
    int allowed;
    int count;
    unsigned next;
    int threads_per_child;
    volatile int draining; /* this child is to go ... */
    volatile int hurried;  /* ... and not gracefully */
    park_thread_t threads[MAX_LOOPS];
    mcp_crew_t *crew;
} env = { .allowed = 1 };

/* The request that this thread is letting go of. */
static __thread struct {
    conn_rec *c;
    mcp_park_t *park;
} leaving;

/* A connection that has been parked at least once; lives in c->pool. */
struct lot_t {
    conn_rec *c;
    park_thread_t *home;
    int is_home;           /* the crew has it, not the MPM */
    mcp_crew_wait_t wait;  /* while it has no request: on the crew */
    mcp_post_t post;
    apr_time_t until;      /* LOT_LINGERS: no longer than that */
    int fd;
    enum { LOT_WRITES, LOT_IDLE, LOT_LINGERS } phase;
};

typedef struct client_call_t {
    mcp_park_fn *fn;
    void *baton;
} client_call_t;

struct mcp_park_t {
    request_rec *r;
    lot_t *lot;              /* NULL: stays on its thread */
    mcp_loop_t *loop;        /* its home's, or its own while on its thread */
    int is_async;
    int runs_inline;
    int is_on_loop;
    mcp_lender_t lender;     /* buckets of what mcp_park_write() is to write */
    int hears_goodbye;       /* bytes from the client may be a TLS close */
    mcp_park_fn *fn;         /* next on the loop */
    void *baton;
    mcp_park_work_fn *work;  /* next on a worker */
    void *work_baton;
    mcp_post_t post;
    mcp_crew_job_t job;
    mcp_watch_t client;
    mcp_timer_t tick;        /* on its thread: what no descriptor tells */
    client_call_t gone, readable, writable, drain;
    mcp_park_t *next, **prev; /* in home->parked */
};

/* Lines are logged as the module that this copy of the library is linked into. */
#undef APLOG_MODULE_INDEX
#define APLOG_MODULE_INDEX (env.owner ? env.owner->module_index : APLOG_NO_MODULE)

static void next_of_connection(lot_t *lot);

/* ---- the client's side of a parked request ---- */

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

apr_status_t mcp_park_flush(mcp_park_t *park)
{
    conn_rec *c = park->r->connection;
    apr_status_t rv = mcp_park_write_kept(c);

    return c->aborted ? APR_ECONNABORTED : rv;
}

int mcp_park_unacknowledged(const mcp_park_t *park)
{
    int bytes = 0;

    return park->lot && ioctl(park->lot->fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

int mcp_park_has_pending(const mcp_park_t *park)
{
    return park->is_async && park->r->connection->data_in_output_filters;
}

void mcp_park_settle(mcp_park_t *park)
{
    if (park->is_async) {
        mcp_memory_spare(park->r);
    }
}

static void call(mcp_park_t *park, client_call_t *which)
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
        | (park->readable.fn || (park->gone.fn && park->hears_goodbye) ? EPOLLIN : 0) | (park->writable.fn ? EPOLLOUT : 0);
}

/*
 * A TLS client may say goodbye (close_notify) and leave TCP open. What can be read is looked at, not
 * taken: the next request, pipelined, ends this listening.
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
        call(park, &park->gone);
        return;
    }
    if ((events & EPOLLIN || gone) && park->readable.fn) {
        call(park, &park->readable);
        return;
    }
    if (events & EPOLLIN && park->gone.fn && hears_goodbye(park)) {
        call(park, &park->gone);
        return;
    }
    if ((events & EPOLLOUT || gone) && park->writable.fn) {
        client_call_t now = park->writable;

        park->writable.fn = NULL;
        mcp_watch_change(park->loop, watch, wanted_events(park));
        now.fn(park, now.baton);
    }
}

/*
 * A request on its own thread has a loop that nobody else knows. It looks itself whether the child
 * is to go, and, for HTTP/2, where the stream has no socket, at the flag that mod_http2 sets.
 */
static void look_around(mcp_timer_t *timer)
{
    mcp_park_t *park = timer->baton;

    mcp_timer_start(park->loop, timer, mcp_loop_now(park->loop)
                    + (park->r->connection->master ? ABORT_TICK : STOP_TICK));
    if (env.draining) {
        call(park, &park->drain);
    }
    if (park->r->connection->aborted || env.hurried) {
        call(park, &park->gone);
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

/* ---- a child that is to go ---- */

static void leave_parked_list(mcp_park_t *park)
{
    if (park->prev) {
        *park->prev = park->next;
        if (park->next) {
            park->next->prev = park->prev;
        }
        park->prev = NULL;
    }
}

void mcp_park_on_drain(mcp_park_t *park, mcp_park_fn *fn, void *baton)
{
    park_thread_t *home = park->is_async ? park->lot->home : NULL;

    park->drain = (client_call_t){ fn, baton };
    if (home && !park->prev) {
        park->next = home->parked;
        if (park->next) {
            park->next->prev = &park->next;
        }
        home->parked = park;
        park->prev = &home->parked;
    }
    if (env.draining) {
        call(park, &park->drain);
    }
}

/* ---- a request changes hands ---- */

/* Output filters that pass data on without waiting for anything. */
static int is_known_not_to_block(const char *name)
{
    static const char *const known[] = {
        "http_header", "content_length", "old_write", "byterange", "chunk", "http_outerror",
        "core", "log_input_output", "ssl/tls filter", "ssl/tls coalescing filter",
        "fixup_headers_out", "fixup_headers_err", "deflate", "brotli_compress", "setenvif",
        "mod_expires", "mod_session_out", "mcp_cache", "mcp_ratelimit", "substitute", "note",
        "reqtimeout", NULL
    };
    int i;

    /* AddOutputFilterByType: mod_filter's, around one of the others. */
    if (strncasecmp(name, "bytype:", 7) == 0) {
        name += 7;
    }
    for (i = 0; known[i]; i++) {
        if (strcasecmp(known[i], name) == 0) {
            return 1;
        }
    }
    return 0;
}

static int may_leave(request_rec *r)
{
    conn_rec *c = r->connection;
    ap_filter_t *f;

    if (!env.allowed || env.count == 0 || c->master || !c->cs || r->main || r->prev
        || c->clogging_input_filters) {
        return 0;
    }
    for (f = r->output_filters; f; f = f->next) {
        if (!is_known_not_to_block(f->frec->name)) {
            ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r,
                          "output filter %s may block: the request stays on its thread",
                          f->frec->name);
            return 0;
        }
    }
    return 1;
}

static lot_t *lot_of(conn_rec *c)
{
    lot_t *lot = ap_get_module_config(c->conn_config, env.owner);
    apr_os_sock_t fd;

    if (!lot) {
        lot = apr_pcalloc(c->pool, sizeof(*lot));
        lot->c = c;
        lot->home = &env.threads[__atomic_fetch_add(&env.next, 1, __ATOMIC_RELAXED)
                                 % (unsigned)env.count];
        apr_os_sock_get(&fd, ap_get_conn_socket(c));
        lot->fd = fd;
        ap_set_module_config(c->conn_config, env.owner, lot);
    }
    return lot;
}

mcp_park_t *mcp_park_create(request_rec *r)
{
    mcp_park_t *park = apr_pcalloc(r->pool, sizeof(*park));

    park->r = r;
    park->is_async = may_leave(r);
    if (park->is_async) {
        park->lot = lot_of(r->connection);
        park->loop = park->lot->home->loop;
    }
    return park;
}

request_rec *mcp_park_request(const mcp_park_t *park)
{
    return park->r;
}

int mcp_park_is_async(const mcp_park_t *park)
{
    return park->is_async;
}

mcp_loop_t *mcp_park_loop(const mcp_park_t *park)
{
    return park->loop;
}

static void run_on_loop(void *baton)
{
    mcp_park_t *park = baton;

    park->is_on_loop = 1;
    park->fn(park, park->baton);
}

/* The request stays: the same functions take turns on this thread until one has a final status. */
static int run_inline(mcp_park_t *park)
{
    int status;

    park->loop = mcp_loop_create();
    if (!park->loop) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    park->runs_inline = 1;
    park->tick.fn = look_around;
    park->tick.baton = park;
    mcp_timer_start(park->loop, &park->tick, mcp_clock_now());
    do {
        park->work = NULL;
        park->fn(park, park->baton);
        /* A stop from before counts for the next run: only work tells that it is over. */
        while (!park->work) {
            mcp_loop_run(park->loop);
        }
        status = park->work(park, park->work_baton);
    } while (status == SUSPENDED);
    park->runs_inline = 0;
    mcp_loop_destroy(park->loop);
    park->loop = NULL;
    return status;
}

/* Until the suspend hook, which comes on this thread, after all who have a say in the request. */
static void leave_thread(mcp_park_t *park)
{
    leaving.c = park->lot->c;
    leaving.park = park;
}

int mcp_park_leave(mcp_park_t *park, mcp_park_fn *fn, void *baton)
{
    park->fn = fn;
    park->baton = baton;
    if (park->is_async) {
        park->post.fn = run_on_loop;
        park->post.baton = park;
        park->job.fn = NULL;
        leave_thread(park);
        return SUSPENDED;
    }
    return park->runs_inline ? SUSPENDED : run_inline(park);
}

int mcp_park_is_home(const mcp_park_t *park)
{
    return !park->is_async || park->lot->is_home;
}

static void run_on_worker(void *baton);

int mcp_park_move(mcp_park_t *park, mcp_park_work_fn *fn, void *baton)
{
    park->work = fn;
    park->work_baton = baton;
    park->job = (mcp_crew_job_t){ .fn = run_on_worker, .baton = park };
    leave_thread(park);
    return SUSPENDED;
}

/*
 * The hooks of all modules run, and each module has its own copy of this: one may have given the
 * connection away by now, so nothing of it is looked at.
 */
static void on_suspend(conn_rec *c, request_rec *r)
{
    mcp_park_t *park = leaving.park;

    if (!park || leaving.c != c) {
        return;
    }
    leaving.park = NULL;
    if (park->job.fn) {
        mcp_crew_run(env.crew, &park->job);
    }
    else {
        mcp_loop_post(park->loop, &park->post);
    }
}

static void take_over(conn_rec *c, request_rec *r)
{
    c->current_thread = ap_thread_current();
    c->sbh = NULL;
    ap_run_resume_connection(c, r);
}

/* What ap_process_async_request() does once its handler has answered, and then the connection. */
static void request_ran(lot_t *lot, request_rec *r, int status)
{
    conn_rec *c = lot->c;

    if (status == SUSPENDED) {
        c->cs->state = CONN_STATE_SUSPENDED;
        ap_run_suspend_connection(c, r);
        return;
    }
    ap_die(status, r);
    if (c->aborted) {
        /* This connection serves no other request: its memory returns to the system. */
        apr_allocator_max_free_set(apr_pool_allocator_get(c->pool), 1);
    }
    ap_process_request_after_handler(r);
    next_of_connection(lot);
}

static void run_on_worker(void *baton)
{
    mcp_park_t *park = baton;
    lot_t *lot = park->lot;
    request_rec *r = park->r;

    take_over(lot->c, r);
    lot->is_home = 1;
    lot->c->cs->state = CONN_STATE_HANDLER;
    request_ran(lot, r, park->work(park, park->work_baton));
}

void mcp_park_work(mcp_park_t *park, mcp_park_work_fn *fn, void *baton)
{
    park->work = fn;
    park->work_baton = baton;
    park->is_on_loop = 0;
    if (park->is_async) {
        leave_parked_list(park);
        park->job = (mcp_crew_job_t){ .fn = run_on_worker, .baton = park };
        mcp_crew_run(env.crew, &park->job);
    }
    else {
        mcp_loop_stop(park->loop);
    }
}

int mcp_park_run_fixups(mcp_park_t *park, void *baton)
{
    int status = ap_run_fixups(park->r);

    return status == OK || status == DECLINED ? ap_invoke_handler(park->r) : status;
}

int mcp_park_run_handler(mcp_park_t *park, void *baton)
{
    int status = ap_run_handler(park->r);

    return status == DECLINED ? HTTP_INTERNAL_SERVER_ERROR : status;
}

/* ---- the connection between two requests ---- */

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

static void destroy_retired(mcp_timer_t *timer)
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

static void wait_on_crew(lot_t *lot, int phase, apr_time_t until)
{
    lot->phase = phase;
    lot->wait.fd = lot->fd;
    lot->wait.events = phase == LOT_WRITES ? EPOLLOUT : EPOLLIN | EPOLLRDHUP;
    lot->wait.may_hurry = phase == LOT_IDLE;
    lot->wait.fn = lot_event;
    lot->wait.baton = lot;
    if (mcp_crew_wait(env.crew, &lot->wait, until) != APR_SUCCESS) {
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
    take_over(c, NULL);
    if (is_late) {
        c->aborted = lot->phase == LOT_WRITES;
        close_connection(lot);
        return;
    }
    if (lot->phase == LOT_IDLE) {
        c->cs->state = CONN_STATE_PROCESSING;
        ap_run_process_connection(c);
    }
    next_of_connection(lot);
}

/* On a worker that has the connection: what the MPM would do with c->cs->state. */
static void next_of_connection(lot_t *lot)
{
    conn_rec *c = lot->c;
    server_rec *s = c->base_server;

    while (c->cs->state == CONN_STATE_WRITE_COMPLETION || c->cs->state == CONN_STATE_KEEPALIVE) {
        if (c->aborted || mcp_park_write_kept(c) != APR_SUCCESS) {
            break;
        }
        if (c->data_in_output_filters) {
            c->cs->state = CONN_STATE_WRITE_COMPLETION;
            wait_on_crew(lot, LOT_WRITES, mcp_clock_now() + s->timeout);
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

/* ---- the child ---- */

static void *run_thread(void *baton)
{
    park_thread_t *t = baton;

    mcp_loop_run(t->loop);
    return NULL;
}

static apr_status_t stop_threads(void *unused)
{
    int i;

    /* Loops first: they wake the crew through a descriptor that its end closes. */
    for (i = 0; i < env.count; i++) {
        mcp_loop_stop(env.threads[i].loop);
        pthread_join(env.threads[i].thread, NULL);
    }
    mcp_crew_stop(env.crew);
    /* The loops stay: connections that this child leaves behind still point to them. */
    env.count = 0;
    return APR_SUCCESS;
}

static void start_thread(server_rec *s)
{
    park_thread_t *t = &env.threads[env.count];
    sigset_t all, before;
    int rv;

    t->loop = mcp_loop_create();
    if (!t->loop) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, s, MCP_LOGNO(1001)
                     "no event loop could be created: streams will hold threads");
        return;
    }
    t->retired_tail = &t->retired;
    t->retire_timer.fn = destroy_retired;
    t->retire_timer.baton = t;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rv = pthread_create(&t->thread, NULL, run_thread, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, s, MCP_LOGNO(1002)
                     "no thread for the event loop could be started: streams will hold threads");
        mcp_loop_destroy(t->loop);
        return;
    }
    env.count++;
}

static void on_child_init(apr_pool_t *p, server_rec *s)
{
    int is_async = 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = 0;
    int i, wanted = env.wanted < cores ? env.wanted : (int)cores;

    env.draining = env.hurried = 0;
    if (ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async) != APR_SUCCESS || !is_async || !env.allowed) {
        return;
    }
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    env.crew = mcp_crew_create(threads, p);
    if (!env.crew) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, s, MCP_LOGNO(1003)
                     "no threads beside the MPM's could be started: streams will hold threads");
        return;
    }
    for (i = 0; i < wanted || i == 0; i++) {
        start_thread(s);
    }
    apr_pool_pre_cleanup_register(p, NULL, stop_threads);
}

/* On a loop: streams are told when the child is to go. */
static void drain(void *baton)
{
    park_thread_t *t = baton;
    mcp_park_t *park, *next;

    for (park = t->parked; park; park = next) {
        next = park->next;
        call(park, &park->drain);
    }
}

static void on_child_stopping(apr_pool_t *p, int graceful)
{
    /* A stop may follow a graceful one: what was posted then may still be in the loop's queue. */
    int i = env.draining ? env.count : 0;

    env.draining = 1;
    env.hurried = !graceful;
    if (env.crew) {
        mcp_crew_hurry(env.crew);
    }
    for (; i < env.count; i++) {
        env.threads[i].drain_post.fn = drain;
        env.threads[i].drain_post.baton = &env.threads[i];
        mcp_loop_post(env.threads[i].loop, &env.threads[i].drain_post);
    }
}

static int on_connection(conn_rec *c, void *csd)
{
    if (env.count && !c->master) {
        mcp_memory_seed(c);
    }
    return OK;
}

int mcp_park_is_draining(void)
{
    return env.draining;
}

void mcp_park_allow(int allowed)
{
    env.allowed = allowed;
}

void mcp_park_register_hooks(module *m, int loops)
{
    env.owner = m;
    env.wanted = loops < MAX_LOOPS ? loops : MAX_LOOPS;
    ap_hook_pre_connection(on_connection, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_child_init(on_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_suspend_connection(on_suspend, NULL, NULL, APR_HOOK_LAST);
    ap_hook_child_stopping(on_child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
}
