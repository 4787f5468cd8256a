/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parking requests, and the connections that they come on, outside the MPM (event-based MPMs of
 * httpd 2.4 know how to let a connection go, not how to take it back). One thread has a connection
 * at any moment: an MPM worker, the loop that the connection belongs to, or a thread of the crew,
 * which does a worker's work from the first parked request on. It leaves a worker through the
 * suspend_connection hook, the loop through mcp_crew_run(), the crew through either of
 * mcp_loop_post() and mcp_crew_wait().
 */
#include "mcp_httpd_parked.h"

#include <ap_mpm.h>
#include <apr_lib.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <errno.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mpm_common.h>
#include <unistd.h>

#include "mcp_clock.h"

/* A child that is to go: whoever was answered so recently may be about to ask again. */
#define NOT_IDLE apr_time_from_sec(1)

park_env_t mcp_park_env = { .allowed = 1 };

/* The request that this thread is letting go of. */
static __thread struct {
    conn_rec *c;
    mcp_park_t *park;
    int was_aborted;
} leaving;

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
    if (mcp_park_env.draining) {
        mcp_park_call(park, &park->drain);
    }
}

/* ---- a request changes hands ---- */

/* Output filters that pass data on without waiting. Only mod_filter's keep their capitals. */
static int is_known_not_to_block(const char *name)
{
    static const char *const known[] = {
        "mcp_cache", "mcp_ratelimit", "http_header", "content_length", "old_write", "byterange",
        "chunk", "http_outerror", "core", "log_input_output", "ssl/tls filter",
        "ssl/tls coalescing filter", "fixup_headers_out", "fixup_headers_err", "deflate",
        "brotli_compress", "setenvif", "mod_expires", "mod_session_out", "substitute", "note",
        "reqtimeout", NULL
    };
    char first;
    int i;

    /* AddOutputFilterByType: mod_filter's, around one of the others. */
    if ((*name | 0x20) == 'b' && strncasecmp(name, "bytype:", 7) == 0) {
        name += 7;
    }
    first = (char)apr_tolower(*name);
    for (i = 0; known[i]; i++) {
        if (*known[i] == first && strcasecmp(known[i], name) == 0) {
            return 1;
        }
    }
    return 0;
}

static int may_leave(request_rec *r)
{
    conn_rec *c = r->connection;
    ap_filter_t *f;

    if (!mcp_park_env.allowed || mcp_park_env.count == 0 || c->master || !c->cs || r->main
        || r->prev || c->clogging_input_filters) {
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
    lot_t *lot = ap_get_module_config(c->conn_config, mcp_park_env.owner);
    apr_os_sock_t fd;
    unsigned turn;

    if (!lot) {
        lot = apr_pcalloc(c->pool, sizeof(*lot));
        lot->c = c;
        turn = __atomic_fetch_add(&mcp_park_env.next, 1, __ATOMIC_RELAXED);
        lot->home = &mcp_park_env.threads[turn % (unsigned)mcp_park_env.count];
        apr_os_sock_get(&fd, ap_get_conn_socket(c));
        lot->fd = fd;
        ap_set_module_config(c->conn_config, mcp_park_env.owner, lot);
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
    park->tick.fn = mcp_park_look_around;
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

/*
 * Until the suspend hook, which comes on this thread, after all who have a say in the request. The
 * MPM would close a connection that is aborted without that hook, and with it what still waits.
 */
static void leave_thread(mcp_park_t *park)
{
    leaving.c = park->lot->c;
    leaving.park = park;
    leaving.was_aborted = (int)leaving.c->aborted;
    leaving.c->aborted = 0;
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
    mcp_park_t *park;

    /* Most have only been answered, and what a thread keeps for itself takes a look-up. */
    if (!c->cs || c->cs->state != CONN_STATE_SUSPENDED) {
        return;
    }
    park = leaving.park;
    if (!park || leaving.c != c) {
        return;
    }
    leaving.park = NULL;
    c->aborted = (unsigned)leaving.was_aborted;
    if (park->job.fn) {
        mcp_crew_run(mcp_park_env.crew, &park->job);
    }
    else {
        mcp_loop_post(park->loop, &park->post);
    }
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
    mcp_lot_next(lot);
}

static void run_on_worker(void *baton)
{
    mcp_park_t *park = baton;
    lot_t *lot = park->lot;
    request_rec *r = park->r;

    mcp_lot_take_over(lot->c, r);
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
        mcp_crew_run(mcp_park_env.crew, &park->job);
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

    /* Loops first: the crew still does what they give to it. */
    for (i = 0; i < mcp_park_env.count; i++) {
        mcp_loop_stop(mcp_park_env.threads[i].loop);
        pthread_join(mcp_park_env.threads[i].thread.id, NULL);
    }
    mcp_crew_stop(mcp_park_env.crew);
    /* The loops stay: connections that this child leaves behind still point to them. */
    mcp_park_env.count = 0;
    return APR_SUCCESS;
}

static void start_thread(server_rec *s)
{
    park_thread_t *t = &mcp_park_env.threads[mcp_park_env.count];
    apr_status_t rv;

    t->loop = mcp_loop_create();
    if (!t->loop) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, s, MCP_LOGNO(1001)
                     "no event loop could be created: streams will hold threads");
        return;
    }
    t->retired_tail = &t->retired;
    t->retire_timer.fn = mcp_lot_destroy_retired;
    t->retire_timer.baton = t;
    rv = mcp_thread_start(&t->thread, run_thread, t, NULL);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, s, MCP_LOGNO(1002)
                     "no thread for the event loop could be started: streams will hold threads");
        mcp_loop_destroy(t->loop);
        return;
    }
    mcp_park_env.count++;
}

static void on_child_init(apr_pool_t *p, server_rec *s)
{
    int is_async = 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = 0;
    int i, wanted = mcp_park_env.wanted < cores ? mcp_park_env.wanted : (int)cores;

    mcp_park_env.draining = mcp_park_env.hurried = 0;
    if (ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async) != APR_SUCCESS || !is_async
        || !mcp_park_env.allowed) {
        return;
    }
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    mcp_park_env.crew = mcp_crew_create(threads, p);
    if (!mcp_park_env.crew) {
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
        mcp_park_call(park, &park->drain);
    }
}

static void on_child_stopping(apr_pool_t *p, int graceful)
{
    /* A stop may follow a graceful one: what was posted then may still be in the loop's queue. */
    int i = mcp_park_env.draining ? mcp_park_env.count : 0;

    mcp_park_env.drained_since = mcp_clock_now();
    mcp_park_env.draining = 1;
    mcp_park_env.hurried = !graceful;
    if (mcp_park_env.crew) {
        mcp_crew_hurry(mcp_park_env.crew, graceful ? NOT_IDLE : 0);
    }
    for (; i < mcp_park_env.count; i++) {
        mcp_park_env.threads[i].drain_post.fn = drain;
        mcp_park_env.threads[i].drain_post.baton = &mcp_park_env.threads[i];
        mcp_loop_post(mcp_park_env.threads[i].loop, &mcp_park_env.threads[i].drain_post);
    }
}

static int on_connection(conn_rec *c, void *csd)
{
    if (mcp_park_env.count && !c->master) {
        mcp_memory_seed(c);
    }
    return OK;
}

int mcp_park_is_draining(void)
{
    return mcp_park_env.draining;
}

void mcp_park_allow(int allowed)
{
    mcp_park_env.allowed = allowed;
}

void mcp_park_register_hooks(module *m, int loops)
{
    mcp_park_env.owner = m;
    mcp_park_env.wanted = loops < MCP_PARK_LOOPS ? loops : MCP_PARK_LOOPS;
    ap_hook_pre_connection(on_connection, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_child_init(on_child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_suspend_connection(on_suspend, NULL, NULL, APR_HOOK_LAST);
    ap_hook_child_stopping(on_child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
}
