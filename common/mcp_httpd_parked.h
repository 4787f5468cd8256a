/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_PARKED_H
#define MCP_HTTPD_PARKED_H

#include "mcp_httpd_crew.h"
#include "mcp_httpd_log.h"
#include "mcp_httpd_memory.h"
#include "mcp_httpd_park.h"
#include "mcp_thread.h"

/*
 * What the files of parking share: mcp_httpd_park.c (requests change hands; the child),
 * mcp_httpd_client.c (the client's side of a parked request) and mcp_httpd_lot.c (a connection
 * between two requests). Nobody else includes this.
 */

#define MCP_PARK_LOOPS 4

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
    mcp_thread_t thread;
    mcp_park_t *parked;  /* requests that are on the loop and want to know of a drain */
    retired_t *retired;  /* oldest first */
    retired_t **retired_tail;
    mcp_timer_t retire_timer;
    mcp_post_t drain_post;
} park_thread_t;

/* What this module's copy of the library knows of its child. Set in child_init, then read only. */
typedef struct park_env_t {
    module *owner;
    int wanted;
    int allowed;
    int count;
    unsigned next;
    int threads_per_child;
    volatile int draining; /* this child is to go ... */
    volatile int hurried;  /* ... and not gracefully */
    apr_time_t drained_since;
    park_thread_t threads[MCP_PARK_LOOPS];
    mcp_crew_t *crew;
} park_env_t;

extern park_env_t mcp_park_env;

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
#define APLOG_MODULE_INDEX (mcp_park_env.owner ? mcp_park_env.owner->module_index : APLOG_NO_MODULE)

/* mcp_httpd_client.c */

/** Run what was registered for an occasion, once. */
void mcp_park_call(mcp_park_t *park, client_call_t *which);

/** The timer of a request on its own thread, which has a loop that nobody else knows. */
void mcp_park_look_around(mcp_timer_t *timer);

/* mcp_httpd_lot.c: on the thread that has the connection */

/** This thread has the connection from now on. */
void mcp_lot_take_over(conn_rec *c, request_rec *r);

/** What the MPM would do with c->cs->state. On a worker, as the last act. */
void mcp_lot_next(lot_t *lot);

/** The timer of home->retired. On the loop. */
void mcp_lot_destroy_retired(mcp_timer_t *timer);

#endif
