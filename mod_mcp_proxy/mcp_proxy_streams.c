/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event streams of this child in the registry of all, and how one is ended from another child:
 * the wish is noted in its slot, and an eventfd that all children have inherited wakes every loop
 * that has streams. It is watched edge-triggered and never read, so each write wakes each of them
 * once, and nobody looks at anything while nobody writes. A loop then goes through the streams that
 * it has.
 */
#include "mcp_proxy_exchange.h"

#include <apr_strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "mcp_clock.h"
#include "mcp_httpd_request.h"
#include "mcp_lasting.h"
#include "mcp_proxy_label.h"

#define REGISTRY_KEY "mcp_proxy.registry/1"
#define WAKER_KEY "mcp_proxy.waker/1"
/* Calls may open streams over the limit. */
#define SPARE 1024
#define MOST_SLOTS 262144
/* A stream that is amid an event when it is to end. */
#define PATIENCE apr_time_from_sec(2)
#define MOST_LOOPS 8

/* The streams that a loop has right now. Only its thread touches it, once loop is set. */
typedef struct mcp_keeper_t {
    mcp_loop_t *loop;
    mcp_watch_t watch;
    mcp_exchange_t *first;
} keeper_t;

static struct {
    mcp_registry_t *registry;
    int waker;
    apr_uint32_t cursor;
    keeper_t keepers[MOST_LOOPS];
} state = { .waker = -1 };

/* The descriptor's number lasts as long as the parent process: all generations share it. */
static apr_status_t open_waker(apr_pool_t *process)
{
    void *kept = NULL;
    int *fd;

    apr_pool_userdata_get(&kept, WAKER_KEY, process);
    if (!kept) {
        fd = apr_palloc(process, sizeof(*fd));
        *fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (*fd < 0) {
            return errno;
        }
        apr_pool_userdata_setn(fd, WAKER_KEY, NULL, process);
        kept = fd;
    }
    state.waker = *(int *)kept;
    return APR_SUCCESS;
}

apr_status_t mcp_streams_set_up(server_rec *s, apr_pool_t *ptemp)
{
    apr_int64_t streams = mcp_proxy_server_conf(MCP_PROXY_MAX_STREAMS) + SPARE;
    unsigned slots = (unsigned)(streams < MOST_SLOTS ? streams : MOST_SLOTS);
    const char *key = apr_psprintf(ptemp, REGISTRY_KEY ":%u", slots);
    void *mem;
    int is_new;
    apr_status_t rv = mcp_lasting_memory(&mem, &is_new, key, mcp_registry_size(slots),
                                         s->process->pool);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    state.registry = mcp_registry_init(mem, slots);
    if (!is_new) {
        mcp_registry_sweep(state.registry);
    }
    return open_waker(s->process->pool);
}

mcp_registry_t *mcp_streams_registry(void)
{
    return state.registry;
}

void mcp_streams_bury(pid_t pid)
{
    if (state.registry) {
        mcp_registry_bury(state.registry, pid);
    }
}

static apr_status_t wake(void)
{
    apr_uint64_t one = 1;

    return write(state.waker, &one, sizeof(one)) < 0 ? errno : APR_SUCCESS;
}

apr_status_t mcp_streams_end(apr_uint32_t index, apr_uint32_t serial)
{
    apr_status_t rv = mcp_registry_end(state.registry, index, serial);

    return rv == APR_SUCCESS ? wake() : rv;
}

apr_status_t mcp_streams_doubt(apr_uint32_t index, apr_uint32_t serial)
{
    apr_status_t rv = mcp_registry_doubt(state.registry, index, serial);

    return rv == APR_SUCCESS ? wake() : rv;
}

/* ---- one stream ---- */

void mcp_streams_open(mcp_exchange_t *x)
{
    request_rec *r = x->r;
    const mcp_rpc_t *rpc = mcp_request_get(r)->rpc;
    mcp_registry_stream_t stream = {
        .member = mcp_proxy_member_hash(x->target.worker), .opened = x->opened, .last = x->opened,
        .session = x->single ? mcp_single_session(x) : 0
    };

    apr_cpystrn(stream.user, r->user ? r->user : "", sizeof(stream.user));
    apr_cpystrn(stream.address, r->useragent_ip, sizeof(stream.address));
    apr_cpystrn(stream.method, r->method_number == M_GET
                ? "GET" : mcp_label_method(mcp_label_of_method(rpc ? rpc->method : NULL)),
                sizeof(stream.method));
    x->slot = mcp_registry_open(state.registry, &state.cursor, getpid(), &stream);
}

void mcp_streams_note(mcp_exchange_t *x, apr_time_t since, apr_time_t now)
{
    mcp_shared_time_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_EVENT_TIME, now - since);
    if (x->slot) {
        mcp_registry_note(x->slot, (apr_uint64_t)x->bytes_in, now);
    }
}

void mcp_streams_move(mcp_exchange_t *x)
{
    if (x->slot) {
        mcp_registry_move(x->slot, mcp_proxy_member_hash(x->target.worker));
    }
}

void mcp_streams_close(mcp_exchange_t *x)
{
    mcp_registry_close(x->slot);
    x->slot = NULL;
}

/* ---- on the loop ---- */

/* As in a drain: at the end of the event that is under way, if that comes soon. */
static void end_if_wanted(mcp_exchange_t *x)
{
    apr_time_t now = mcp_clock_now();

    if (x->slot && mcp_registry_is_ended(x->slot) && !x->client_gone && !x->is_to_end) {
        x->is_to_end = 1;
        x->drain_at = now;
        x->drain_until = now + PATIENCE;
        mcp_exchange_wake(x, mcp_exchange_deadline(x));
    }
}

static void look_if_doubted(mcp_exchange_t *x)
{
    if (x->slot && mcp_registry_take_doubt(x->slot) && !x->client_gone && !x->doubted_since) {
        mcp_exchange_wake(x, mcp_exchange_doubt_client(x));
    }
}

static void on_wake(mcp_watch_t *watch, unsigned events)
{
    keeper_t *keeper = watch->baton;
    mcp_exchange_t *x;

    for (x = keeper->first; x; x = x->next_kept) {
        end_if_wanted(x);
        look_if_doubted(x);
    }
}

/* The keeper of a loop of this child; of a request that keeps its thread, one of its own. */
static keeper_t *keeper_of(mcp_exchange_t *x)
{
    mcp_loop_t *loop = mcp_park_loop(x->park), *nobody;
    int i;

    if (!mcp_park_is_async(x->park)) {
        if (!x->own_keeper) {
            x->own_keeper = apr_pcalloc(x->r->pool, sizeof(*x->own_keeper));
            x->own_keeper->loop = loop;
        }
        return x->own_keeper;
    }
    for (i = 0; i < MOST_LOOPS; i++) {
        nobody = NULL;
        if (__atomic_load_n(&state.keepers[i].loop, __ATOMIC_RELAXED) == loop
            || __atomic_compare_exchange_n(&state.keepers[i].loop, &nobody, loop, 0,
                                           __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            return &state.keepers[i];
        }
    }
    return NULL;
}

void mcp_streams_enter(mcp_exchange_t *x)
{
    keeper_t *keeper = x->slot ? keeper_of(x) : NULL;

    if (!keeper) {
        return;
    }
    if (!keeper->watch.active) {
        keeper->watch.fn = on_wake;
        keeper->watch.baton = keeper;
        mcp_watch_start(keeper->loop, &keeper->watch, state.waker, EPOLLIN | EPOLLET);
    }
    x->next_kept = keeper->first;
    x->kept_by = &keeper->first;
    if (keeper->first) {
        keeper->first->kept_by = &x->next_kept;
    }
    keeper->first = x;
    end_if_wanted(x);
}

void mcp_streams_leave(mcp_exchange_t *x)
{
    if (!x->kept_by) {
        return;
    }
    *x->kept_by = x->next_kept;
    if (x->next_kept) {
        x->next_kept->kept_by = x->kept_by;
    }
    x->next_kept = NULL;
    x->kept_by = NULL;
}
