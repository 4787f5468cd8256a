/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper. `mutex` protects the list of streams, the list of rows to give back and the queue of
 * charges; no I/O happens under it but shutdown(), which does not wait, and which must not meet a
 * descriptor that has been closed and used again. Rows are freed by this thread only, so
 * an index found under the mutex stays good while Redis is being asked.
 */
#include "mcp_rl_keeper.h"

#include <apr_strings.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "mcp_clock.h"
#include "mcp_thread.h"

#define TICK apr_time_from_msec(100)
#define HEARTBEAT apr_time_from_sec(1)
#define FIND_DEAD_EVERY apr_time_from_sec(5)
#define BATCH 512
#define ADOPT_AT_ONCE 128
#define QUEUE 256
#define BATCH_BUDGET apr_time_from_msec(500)
#define LAST_BUDGET apr_time_from_msec(200)

typedef struct charge_t {
    mcp_rl_rule_t rule;
    mcp_rl_ask_t ask;
    char key[MCP_RL_KEY_MAX];
} charge_t;

struct mcp_rl_keeper_t {
    mcp_rl_store_t *store;
    mcp_thread_t thread;
    pthread_mutex_t mutex;
    mcp_rl_stream_t *streams;
    unsigned stream_count;
    apr_uint32_t releases;   /* first row to give back; index + 1 */
    unsigned charges;
    charge_t charge[QUEUE];
    apr_time_t renew_at, beat_at, dead_at, retry_at;
    int was_open;
    apr_uint64_t server;
};

/* What is asked of Redis for a number of rows; texts are copied, since rows may be reused. */
typedef struct work_t {
    mcp_rl_row_t *row;
    apr_uint64_t number;
    char key[MCP_RL_KEY_MAX];
    char member[MCP_RL_MEMBER_MAX];
} work_t;

static void work_set(const mcp_rl_keeper_t *keeper, work_t *work, mcp_rl_row_t *row,
                     apr_uint64_t number)
{
    work->row = row;
    work->number = number;
    apr_cpystrn(work->key, row->key, sizeof(work->key));
    mcp_rl_lease_member(keeper->store->leases, number, work->member);
}

static mcp_rl_redis_lease_t *leases_of(const work_t *work, int count)
{
    mcp_rl_redis_lease_t *leases = calloc((unsigned)count, sizeof(*leases));
    int i;

    for (i = 0; leases && i < count; i++) {
        leases[i].key = work[i].key;
        leases[i].member = work[i].member;
    }
    return leases;
}

static int redis_is_open(const mcp_rl_keeper_t *keeper)
{
    const mcp_rl_redis_t *redis = keeper->store->redis;

    return redis && mcp_redis_is_open(redis->client);
}

/* Tell Redis that these leases are over. */
static apr_status_t release(mcp_rl_keeper_t *keeper, const work_t *work, int count,
                            apr_interval_time_t budget)
{
    mcp_rl_redis_lease_t *leases;
    apr_status_t rv;

    if (!keeper->store->redis) {
        return APR_SUCCESS;
    }
    leases = leases_of(work, count);
    rv = leases ? mcp_rl_redis_release(keeper->store->redis, leases, count,
                                       mcp_clock_now() + budget)
                : APR_ENOMEM;
    free(leases);
    return rv;
}

static int take_releases(mcp_rl_keeper_t *keeper, work_t *work, int most)
{
    mcp_rl_leases_t *table = keeper->store->leases;
    int count = 0;

    pthread_mutex_lock(&keeper->mutex);
    while (keeper->releases && count < most) {
        mcp_rl_row_t *row = mcp_rl_lease_row(table, keeper->releases - 1);

        keeper->releases = row->release_next;
        work_set(keeper, &work[count++], row, row->number);
    }
    pthread_mutex_unlock(&keeper->mutex);
    return count;
}

static void push_release_locked(mcp_rl_keeper_t *keeper, mcp_rl_row_t *row)
{
    row->release_next = keeper->releases;
    keeper->releases = mcp_rl_lease_index(keeper->store->leases, row) + 1;
}

static void free_or_keep(mcp_rl_keeper_t *keeper, const work_t *work, int is_done)
{
    /* A lease that would have ended by itself needs no telling. */
    if (work->row->deadline < mcp_clock_now() - keeper->store->timeout) {
        is_done = 1;
    }
    if (!is_done
        || mcp_rl_lease_free(keeper->store->leases, work->row, work->number) != APR_SUCCESS) {
        pthread_mutex_lock(&keeper->mutex);
        push_release_locked(keeper, work->row);
        pthread_mutex_unlock(&keeper->mutex);
    }
}

/* Streams that ended here. @return whether all could be given back */
static int do_releases(mcp_rl_keeper_t *keeper, work_t *work, apr_interval_time_t budget)
{
    int count, i;

    if (mcp_clock_now() < keeper->retry_at) {
        return 0;
    }
    while ((count = take_releases(keeper, work, BATCH)) > 0) {
        int is_done = release(keeper, work, count, budget) == APR_SUCCESS;

        for (i = 0; i < count; i++) {
            free_or_keep(keeper, &work[i], is_done);
        }
        if (!is_done) {
            keeper->retry_at = mcp_clock_now() + TICK;
            return 0;
        }
    }
    return 1;
}

/* Streams of children that died. */
static void do_orphans(mcp_rl_keeper_t *keeper, work_t *work)
{
    mcp_rl_leases_t *table = keeper->store->leases;
    mcp_rl_row_t *rows[BATCH];
    apr_uint64_t numbers[BATCH];
    int count, i, is_done;

    if (redis_is_open(keeper)) {
        return;
    }
    count = mcp_rl_lease_adopt_orphans(table, keeper->store->pid, rows, numbers, BATCH);
    if (!count) {
        return;
    }
    for (i = 0; i < count; i++) {
        work_set(keeper, &work[i], rows[i], numbers[i]);
    }
    is_done = release(keeper, work, count, BATCH_BUDGET) == APR_SUCCESS;
    for (i = 0; i < count; i++) {
        if (!is_done || mcp_rl_lease_free(table, rows[i], numbers[i]) != APR_SUCCESS) {
            mcp_rl_lease_orphan_again(table, rows[i], numbers[i]);
        }
    }
}

/* Close a stream that has no slot any more. Whoever reads the client's socket sees its end. */
static void close_stream_locked(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream)
{
    __atomic_store_n(&stream->lost, 1, __ATOMIC_RELEASE);
    __atomic_add_fetch(&keeper->store->counters->streams_lost, 1, __ATOMIC_RELAXED);
    mcp_rl_lease_change(stream->row, MCP_RL_ROW_HELD, MCP_RL_ROW_LOST);
    if (stream->fd >= 0) {
        (void)shutdown(stream->fd, SHUT_RDWR);
    }
}

static mcp_rl_stream_t *find_locked(mcp_rl_keeper_t *keeper, const work_t *work)
{
    mcp_rl_stream_t *stream = keeper->streams;

    while (stream && !(stream->row == work->row && stream->row->number == work->number)) {
        stream = stream->next;
    }
    return stream;
}

static void set_renewed(const work_t *work, apr_time_t deadline)
{
    work->row->deadline = deadline;
    work->row->local = 0;
}

/* A stream without a lease: ask for a new one, like anybody, or close it.
 * @return whether the store answered */
static int readmit(mcp_rl_keeper_t *keeper, const work_t *work)
{
    mcp_rl_store_t *store = keeper->store;
    mcp_rl_rule_t rule = { .limit = MCP_RL_STREAMS, .kind = MCP_RL_SLOTS,
                           .amount = work->row->limit };
    mcp_rl_ask_t ask = { .rule = &rule, .mode = MCP_RL_ADOPT, .cost = 1, .key = work->key,
                         .member = work->member };
    mcp_rl_verdict_t verdict;
    mcp_redis_info_t info;
    apr_time_t sent = mcp_clock_now();
    apr_status_t rv = mcp_rl_redis_decide(store->redis, &ask, 1, sent + BATCH_BUDGET, &verdict,
                                          NULL, &info);
    mcp_rl_stream_t *stream;

    if (rv == APR_SUCCESS && verdict.allowed) {
        set_renewed(work, mcp_rl_store_deadline(store, sent));
        return 1;
    }
    if (rv == MCP_RL_EBADDATA) {
        mcp_rl_store_complain(store, info.why);
    }
    pthread_mutex_lock(&keeper->mutex);
    stream = find_locked(keeper, work);
    if (stream && (rv == APR_SUCCESS || stream->policy == MCP_RL_CLOSED)) {
        close_stream_locked(keeper, stream);
    }
    pthread_mutex_unlock(&keeper->mutex);
    return rv == APR_SUCCESS || rv == MCP_RL_EBADDATA;
}

static work_t *take_streams(mcp_rl_keeper_t *keeper, int *count)
{
    mcp_rl_stream_t *stream;
    work_t *work;
    int n = 0;

    pthread_mutex_lock(&keeper->mutex);
    work = keeper->stream_count ? calloc(keeper->stream_count, sizeof(*work)) : NULL;
    for (stream = keeper->streams; work && stream; stream = stream->next) {
        if (!stream->lost) {
            work_set(keeper, &work[n++], stream->row, stream->row->number);
        }
    }
    pthread_mutex_unlock(&keeper->mutex);
    *count = n;
    return work;
}

/* @return whether all leases are good again */
static int renew_all(mcp_rl_keeper_t *keeper)
{
    mcp_rl_store_t *store = keeper->store;
    int count, i, good = 1;
    work_t *work = take_streams(keeper, &count);
    mcp_rl_redis_lease_t *leases = count ? leases_of(work, count) : NULL;
    apr_time_t sent = mcp_clock_now();

    if (count && (!leases || mcp_rl_redis_renew(store->redis, leases, count, sent + BATCH_BUDGET)
                  != APR_SUCCESS)) {
        good = 0;
        count = 0;
    }
    for (i = 0; i < count; i++) {
        if (leases[i].held) {
            set_renewed(&work[i], mcp_rl_store_deadline(store, sent));
        }
        else if (good) {
            good = readmit(keeper, &work[i]);
        }
    }
    free(leases);
    free(work);
    return good;
}

static void unlink_locked(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream)
{
    mcp_rl_ask_t ask = { .rule = stream->rule };

    *stream->link = stream->next;
    if (stream->next) {
        stream->next->link = stream->link;
    }
    stream->link = NULL;
    keeper->stream_count--;
    if (mcp_rl_lease_change(stream->row, MCP_RL_ROW_HELD, MCP_RL_ROW_RELEASING)
        || mcp_rl_lease_change(stream->row, MCP_RL_ROW_LOST, MCP_RL_ROW_RELEASING)) {
        push_release_locked(keeper, stream->row);
    }
    /* Whoever was told to wait for a slot may ask again. */
    memcpy(ask.digest, stream->digest, sizeof(ask.digest));
    mcp_rl_deny_forget(keeper->store->deny, &ask);
}

/*
 * mod_proxy_http notices that a client has left a quiet stream at the backend's next event, which
 * may be never. The slot comes free now, and shutting the socket down makes sure that the
 * stream does not go on without one.
 */
static void look_for_gone_clients(mcp_rl_keeper_t *keeper)
{
    struct pollfd *fds;
    mcp_rl_stream_t *stream, *next;
    nfds_t n = 0;

    pthread_mutex_lock(&keeper->mutex);
    fds = keeper->stream_count ? calloc(keeper->stream_count, sizeof(*fds)) : NULL;
    for (stream = keeper->streams; fds && stream; stream = stream->next) {
        fds[n].fd = stream->fd;
        fds[n++].events = POLLRDHUP;
    }
    if (n && poll(fds, n, 0) >= 0) {
        n = 0;
        for (stream = keeper->streams; stream; stream = next) {
            next = stream->next;
            if ((fds[n++].revents & (POLLRDHUP | POLLHUP | POLLERR))
                || (stream->is_gone && stream->is_gone(stream->baton))) {
                __atomic_store_n(&stream->lost, 1, __ATOMIC_RELEASE);
                if (stream->fd >= 0) {
                    (void)shutdown(stream->fd, SHUT_RDWR);
                }
                unlink_locked(keeper, stream);
            }
        }
    }
    pthread_mutex_unlock(&keeper->mutex);
    free(fds);
}

/* What is closed by policy ends when nobody can vouch for its slot any more. */
static void fence(mcp_rl_keeper_t *keeper)
{
    apr_time_t now = mcp_clock_now();
    mcp_rl_stream_t *stream;

    pthread_mutex_lock(&keeper->mutex);
    for (stream = keeper->streams; stream; stream = stream->next) {
        if (!stream->lost && stream->policy == MCP_RL_CLOSED && stream->row->deadline < now) {
            close_stream_locked(keeper, stream);
        }
    }
    pthread_mutex_unlock(&keeper->mutex);
}

static int newest_stream(mcp_rl_keeper_t *keeper, work_t *work)
{
    mcp_rl_stream_t *stream;

    pthread_mutex_lock(&keeper->mutex);
    stream = keeper->streams;
    if (stream) {
        work_set(keeper, work, stream->row, stream->row->number);
    }
    pthread_mutex_unlock(&keeper->mutex);
    return stream != NULL;
}

/*
 * A server that was restarted, or flushed, or whose clock jumped, has no leases: do not find out
 * only when they are due. One of them tells.
 */
static void heartbeat(mcp_rl_keeper_t *keeper, apr_time_t now)
{
    mcp_rl_store_t *store = keeper->store;
    apr_uint64_t server;
    work_t work;

    if (keeper->beat_at <= now && newest_stream(keeper, &work)) {
        mcp_rl_redis_lease_t lease = { .key = work.key, .member = work.member };

        keeper->beat_at = now + HEARTBEAT;
        if (mcp_rl_redis_renew(store->redis, &lease, 1, now + BATCH_BUDGET) == APR_SUCCESS
            && !lease.held) {
            keeper->renew_at = now;
        }
    }
    server = __atomic_load_n(&store->redis->epoch->server, __ATOMIC_ACQUIRE);
    if (server != keeper->server) {
        keeper->server = server;
        keeper->renew_at = now;
    }
}

static void do_renewals(mcp_rl_keeper_t *keeper, apr_time_t now)
{
    mcp_rl_redis_t *redis = keeper->store->redis;
    int is_open;

    mcp_redis_maintain(redis->client, keeper->store->timeout);
    is_open = redis_is_open(keeper);
    if (keeper->was_open && !is_open) {
        keeper->renew_at = now;
    }
    keeper->was_open = is_open;
    if (!is_open) {
        heartbeat(keeper, now);
        if (keeper->renew_at <= now) {
            keeper->renew_at = renew_all(keeper) ? now + redis->lease / 3 : now + TICK;
        }
    }
    fence(keeper);
}

static void do_charges(mcp_rl_keeper_t *keeper)
{
    charge_t *charges = NULL;
    unsigned count, i;

    pthread_mutex_lock(&keeper->mutex);
    count = keeper->charges;
    if (count) {
        charges = malloc(count * sizeof(*charges));
        if (charges) {
            memcpy(charges, keeper->charge, count * sizeof(*charges));
        }
        keeper->charges = 0;
    }
    pthread_mutex_unlock(&keeper->mutex);
    for (i = 0; charges && i < count; i++) {
        mcp_rl_verdict_t verdict;
        mcp_rl_outcome_t outcome;

        outcome.verdicts = &verdict;
        charges[i].ask.rule = &charges[i].rule;
        charges[i].ask.key = charges[i].key;
        mcp_rl_store_decide(keeper->store, &charges[i].ask, 1, MCP_RL_LOCAL, NULL, &outcome);
    }
    free(charges);
}

static void tick(mcp_rl_keeper_t *keeper, work_t *work)
{
    apr_time_t now = mcp_clock_now();

    if (keeper->dead_at <= now) {
        keeper->dead_at = now + FIND_DEAD_EVERY;
        mcp_rl_lease_find_dead(keeper->store->leases);
    }
    do_orphans(keeper, work);
    look_for_gone_clients(keeper);
    do_releases(keeper, work, BATCH_BUDGET);
    do_charges(keeper);
    if (keeper->store->redis) {
        do_renewals(keeper, now);
    }
}

static void wait_for_work(mcp_rl_keeper_t *keeper)
{
    pthread_mutex_lock(&keeper->mutex);
    mcp_thread_wait_locked(&keeper->thread, TICK);
    pthread_mutex_unlock(&keeper->mutex);
}

static void *run(void *data)
{
    mcp_rl_keeper_t *keeper = data;
    work_t *work = calloc(BATCH, sizeof(*work));

    while (work && !mcp_thread_is_stopped(&keeper->thread)) {
        tick(keeper, work);
        wait_for_work(keeper);
    }
    free(work);
    return NULL;
}

/* The process is about to end, and all its streams with it. */
static apr_status_t stop(void *data)
{
    mcp_rl_keeper_t *keeper = data;
    work_t *work = calloc(BATCH, sizeof(*work));
    mcp_rl_stream_t *stream;

    mcp_thread_stop(&keeper->thread);
    pthread_mutex_lock(&keeper->mutex);
    while ((stream = keeper->streams) != NULL) {
        unlink_locked(keeper, stream);
    }
    pthread_mutex_unlock(&keeper->mutex);
    if (work && !redis_is_open(keeper)) {
        keeper->retry_at = 0;
        do_releases(keeper, work, LAST_BUDGET);
    }
    free(work);
    return APR_SUCCESS;
}

apr_status_t mcp_rl_keeper_start(mcp_rl_keeper_t **keeper, mcp_rl_store_t *store, int gives_back,
                                 apr_pool_t *exiting)
{
    /* Never freed: requests of a child that is exiting may still end after the thread. */
    mcp_rl_keeper_t *k = calloc(1, sizeof(*k));
    apr_status_t rv;

    if (!k) {
        return APR_ENOMEM;
    }
    k->store = store;
    pthread_mutex_init(&k->mutex, NULL);
    *keeper = k;
    rv = mcp_thread_start(&k->thread, run, k, &k->mutex);
    if (rv == APR_SUCCESS && gives_back) {
        apr_pool_pre_cleanup_register(exiting, k, stop);
    }
    else if (rv == APR_SUCCESS) {
        mcp_thread_end_with(&k->thread, 0, exiting);
    }
    return rv;
}

void mcp_rl_keeper_add(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream)
{
    pthread_mutex_lock(&keeper->mutex);
    stream->next = keeper->streams;
    stream->link = &keeper->streams;
    memcpy(stream->digest, stream->row->digest, sizeof(stream->digest));
    if (stream->next) {
        stream->next->link = &stream->next;
    }
    keeper->streams = stream;
    keeper->stream_count++;
    pthread_mutex_unlock(&keeper->mutex);
}

void mcp_rl_keeper_remove(mcp_rl_keeper_t *keeper, mcp_rl_stream_t *stream)
{
    pthread_mutex_lock(&keeper->mutex);
    if (stream->link) {
        unlink_locked(keeper, stream);
        mcp_thread_wake_locked(&keeper->thread);
    }
    pthread_mutex_unlock(&keeper->mutex);
}

int mcp_rl_keeper_is_lost(const mcp_rl_keeper_t *keeper, const mcp_rl_stream_t *stream)
{
    return __atomic_load_n(&stream->lost, __ATOMIC_ACQUIRE)
        || (stream->policy == MCP_RL_CLOSED && stream->row->deadline < mcp_clock_now());
}

void mcp_rl_keeper_record(mcp_rl_keeper_t *keeper, const mcp_rl_ask_t *ask)
{
    pthread_mutex_lock(&keeper->mutex);
    if (keeper->charges < QUEUE && strlen(ask->key) < MCP_RL_KEY_MAX) {
        charge_t *charge = &keeper->charge[keeper->charges++];

        charge->rule = *ask->rule;
        charge->ask = *ask;
        apr_cpystrn(charge->key, ask->key, sizeof(charge->key));
        mcp_thread_wake_locked(&keeper->thread);
    }
    pthread_mutex_unlock(&keeper->mutex);
}
