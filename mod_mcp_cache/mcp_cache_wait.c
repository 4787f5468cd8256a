/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for an equal request. Where the request can leave its thread it is put into the list of
 * its loop, and one timer of that loop looks, every LOOK_EVERY, at the flights that anybody of the
 * list waits for: an atomic read each, and nothing runs while nobody waits. A request that must keep
 * its thread has a loop, and so a list, of its own. Everything here runs on the loop's thread, but
 * for mcp_cache_wait().
 */
#include "mcp_cache.h"

#include <pthread.h>

#include "mcp_clock.h"
#include "mcp_loop.h"

#define LOOK_EVERY apr_time_from_msec(1)
#define REAP_EVERY 200 /* looks */

typedef struct mcp_cache_waiter_t waiter_t;

typedef struct list_t {
    mcp_loop_t *loop;
    mcp_timer_t timer;
    unsigned looks;
    waiter_t *first;
} list_t;

struct mcp_cache_waiter_t {
    mcp_cache_request_t *q;
    mcp_park_t *park;
    list_t *list;
    waiter_t *next, **prev;
};

/* One for each loop of this child that requests are parked on; they live as long as the child. */
#define MAX_LISTS 8
static struct {
    pthread_mutex_t mutex; /* for finding a place; a list belongs to its loop */
    list_t lists[MAX_LISTS];
} env = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static list_t *list_of(mcp_loop_t *loop)
{
    list_t *found = NULL;
    int i;

    pthread_mutex_lock(&env.mutex);
    for (i = 0; i < MAX_LISTS && !found; i++) {
        if (!env.lists[i].loop || env.lists[i].loop == loop) {
            found = &env.lists[i];
            found->loop = loop;
        }
    }
    pthread_mutex_unlock(&env.mutex);
    return found;
}

static void stop_waiting(waiter_t *w)
{
    *w->prev = w->next;
    if (w->next) {
        w->next->prev = w->prev;
    }
    mcp_park_unwatch_client(w->park);
    if (!w->list->first) {
        mcp_timer_stop(w->list->loop, &w->list->timer);
    }
}

static void go_on(mcp_park_t *park, void *baton)
{
    stop_waiting(baton);
    mcp_park_work(park, mcp_park_run_handler, NULL);
}

static int end_of_gone(mcp_park_t *park, void *baton)
{
    request_rec *r = mcp_park_request(park);

    r->connection->keepalive = AP_CONN_CLOSE;
    r->connection->aborted = 1;
    return DONE;
}

static void client_gone(mcp_park_t *park, void *baton)
{
    stop_waiting(baton);
    mcp_park_work(park, end_of_gone, NULL);
}

static int is_over(waiter_t *w, apr_time_t now, int reap)
{
    mcp_cache_flights_t *flights = mcp_cache_env()->flights;

    if (reap) {
        mcp_cache_flight_reap(flights, &w->q->ticket);
    }
    return w->q->wait_until <= now || !mcp_cache_flight_is_up(flights, &w->q->ticket);
}

static void look_around(mcp_timer_t *timer)
{
    list_t *list = timer->baton;
    apr_time_t now = mcp_clock_now();
    int reap = ++list->looks % REAP_EVERY == 0;
    waiter_t *w, *next;

    mcp_timer_start(list->loop, timer, now + LOOK_EVERY);
    for (w = list->first; w; w = next) {
        next = w->next;
        /* One system call for a flight, not one for each of its waiters: they stand together. */
        if (is_over(w, now, reap && (!next || next->q->ticket.row != w->q->ticket.row))) {
            go_on(w->park, w);
        }
    }
}

static void start_waiting(mcp_park_t *park, void *baton)
{
    waiter_t *w = baton;
    list_t *list = w->list;

    list->loop = mcp_park_loop(park);
    w->next = list->first;
    w->prev = &list->first;
    if (w->next) {
        w->next->prev = &w->next;
    } else {
        list->timer.fn = look_around;
        list->timer.baton = list;
        mcp_timer_start(list->loop, &list->timer, mcp_clock_now() + LOOK_EVERY);
    }
    list->first = w;
    mcp_park_on_client_gone(park, client_gone, w);
}

int mcp_cache_wait(mcp_cache_request_t *q)
{
    waiter_t *w = q->waiter;

    /* The second time the same place is used: on its own thread, a request waits within a wait. */
    if (!w) {
        w = q->waiter = apr_pcalloc(q->r->pool, sizeof(*w));
        w->q = q;
        w->park = mcp_park_create(q->r);
        w->list = mcp_park_is_async(w->park) ? list_of(mcp_park_loop(w->park)) : NULL;
        if (!w->list) {
            w->list = apr_pcalloc(q->r->pool, sizeof(*w->list));
        }
    }
    return mcp_park_leave(w->park, start_waiting, w);
}
