/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for an equal request. Where the request can leave its thread it is put into the list of
 * its loop; one that must keep its thread has a loop, and so a list, of its own. A leader of this
 * child wakes all lists when it lands; what leads in another child is looked at by a timer, every
 * LOOK_EVERY, an atomic read for each who waits for it. Everything here runs on the loop's thread,
 * but for mcp_cache_wait() and mcp_cache_land().
 */
#include "mcp_cache.h"

#include <pthread.h>

#include "mcp_clock.h"
#include "mcp_loop.h"

#define LOOK_EVERY apr_time_from_msec(1)
#define REAP_EVERY 200 /* looks */
#define LOOK_AT_TIME apr_time_from_sec(1) /* where only MAX_WAIT can end before a landing */

typedef struct mcp_cache_waiter_t waiter_t;

typedef struct list_t {
    mcp_loop_t *loop;
    mcp_timer_t timer;
    mcp_post_t post;
    int posted;            /* atomic: post is in the loop's queue */
    unsigned looks;
    waiter_t *first;
    struct list_t *next;   /* of env.first */
    struct list_t **prev;
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
    pthread_mutex_t mutex; /* for finding a place, and for first; a list belongs to its loop */
    list_t lists[MAX_LISTS];
    list_t *first;         /* of those with waiters; also read without the lock */
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

static void start_listening(list_t *list)
{
    pthread_mutex_lock(&env.mutex);
    list->next = env.first;
    list->prev = &env.first;
    if (list->next) {
        list->next->prev = &list->next;
    }
    __atomic_store_n(&env.first, list, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&env.mutex);
}

static void stop_listening(list_t *list)
{
    pthread_mutex_lock(&env.mutex);
    *list->prev = list->next;
    if (list->next) {
        list->next->prev = list->prev;
    }
    pthread_mutex_unlock(&env.mutex);
}

void mcp_cache_land(const mcp_cache_ticket_t *ticket, mcp_cache_landing_e how)
{
    list_t *list;

    mcp_cache_flight_land(mcp_cache_env()->flights, ticket, how);
    /* Who begins to wait after this read sees the landing when he looks, as he does at once. */
    if (!__atomic_load_n(&env.first, __ATOMIC_SEQ_CST)) {
        return;
    }
    pthread_mutex_lock(&env.mutex);
    for (list = env.first; list; list = list->next) {
        if (!__atomic_exchange_n(&list->posted, 1, __ATOMIC_SEQ_CST)) {
            mcp_loop_post(list->loop, &list->post);
        }
    }
    pthread_mutex_unlock(&env.mutex);
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
        stop_listening(w->list);
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

/* Let go whose wait is over. Returns whether somebody is left who waits for another child. */
static int look_at_all(list_t *list, int reap)
{
    apr_time_t now = mcp_clock_now();
    waiter_t *w, *next;
    int far = 0;

    for (w = list->first; w; w = next) {
        next = w->next;
        /* One system call for a flight, not one for each of its waiters: they stand together. */
        if (is_over(w, now, reap && (!next || next->q->ticket.row != w->q->ticket.row))) {
            go_on(w->park, w);
        } else {
            far |= !w->q->ticket.is_near;
        }
    }
    return far;
}

static void has_landed(void *baton)
{
    list_t *list = baton;

    __atomic_store_n(&list->posted, 0, __ATOMIC_SEQ_CST);
    look_at_all(list, 0);
}

static void look_around(mcp_timer_t *timer)
{
    list_t *list = timer->baton;
    int far = look_at_all(list, ++list->looks % REAP_EVERY == 0);

    if (list->first) {
        mcp_timer_start(list->loop, timer, mcp_clock_now() + (far ? LOOK_EVERY : LOOK_AT_TIME));
    }
}

static void start_waiting(mcp_park_t *park, void *baton)
{
    waiter_t *w = baton;
    list_t *list = w->list;
    apr_time_t now = mcp_clock_now();
    int is_first = !list->first;

    list->loop = mcp_park_loop(park);
    w->next = list->first;
    w->prev = &list->first;
    if (w->next) {
        w->next->prev = &w->next;
    }
    list->first = w;
    if (is_first) {
        list->timer.fn = look_around;
        list->post.fn = has_landed;
        list->timer.baton = list->post.baton = list;
        start_listening(list);
    }
    mcp_park_on_client_gone(park, client_gone, w);
    if (is_over(w, now, 0)) {
        go_on(park, w);
    } else if (is_first || (!w->q->ticket.is_near && list->timer.when > now + LOOK_EVERY)) {
        mcp_timer_start(list->loop, &list->timer, now + LOOK_EVERY);
    }
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
