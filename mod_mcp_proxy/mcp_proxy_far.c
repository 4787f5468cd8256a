/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions in Redis, from a request's side: one MGET for the ids that the table does not know, one
 * SET for a new session, and notes to the keeper for all that nobody waits for.
 */
#include "mcp_proxy_far.h"

#include <apr_strings.h>
#include <http_log.h>
#include <pthread.h>

#include "mcp_clock.h"
#include "mcp_proxy_far_keeper.h"

/* More ids than that, all of them unknown, in one request are no client's. */
#define ASK_MOST 8
/* How long an id that is not there is not asked for again, and how many such ids are noted. */
#define ABSENT_FOR apr_time_from_sec(1)
#define ABSENT_SLOTS 1024
#define RENEW_LEAST apr_time_from_msec(100)
#define RENEW_MOST apr_time_from_sec(30)

/* An id that was not there a moment ago. Each has one slot where it can be. */
typedef struct absent_t {
    unsigned char id[MCP_SESSION_DIGEST];
    apr_time_t until;
} absent_t;

static struct {
    mcp_redis_t *redis;
    mcp_far_keeper_t *keeper;
    mcp_far_shared_t *shared;
    server_rec *server;
    apr_interval_time_t ttl;
    pthread_mutex_t absent_lock;
    absent_t absent[ABSENT_SLOTS];
} far = { .absent_lock = PTHREAD_MUTEX_INITIALIZER };

struct mcp_far_ask_t {
    mcp_redis_job_t job;
    mcp_redis_command_t command;
    int count, too_many;
    mcp_session_key_t sessions[ASK_MOST];
    apr_status_t found[ASK_MOST];
    apr_status_t here[ASK_MOST];
    char members[ASK_MOST][MCP_FAR_MEMBER_SIZE];
    char keys[ASK_MOST][MCP_FAR_KEY_SIZE];
    const char *argv[1 + ASK_MOST];
    size_t len[1 + ASK_MOST];
    apr_time_t started;
    mcp_redis_wait_t wait;
    mcp_park_t *park;
};

struct mcp_far_put_t {
    mcp_redis_job_t job;
    mcp_redis_command_t command;
    mcp_far_op_t op;
    char key[MCP_FAR_KEY_SIZE];
    char value[MCP_FAR_VALUE_SIZE];
    const char *argv[5];
    size_t len[5];
    apr_time_t started;
};

static void store_changed(void *baton, int up, const char *name, const char *why)
{
    if (up) {
        /* Who knows what it has lost, or never been told: each session is told again when used. */
        __atomic_store_n(&far.shared->restarted, mcp_clock_now(), __ATOMIC_RELEASE);
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, far.server, MCP_LOGNO(2101)
                     "the session store %s answers again", name);
    }
    else {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, far.server, MCP_LOGNO(2100)
                     "the session store %s does not answer (%s): sessions that this httpd knows go "
                     "on, and until it does no other gateway learns of new ones", name, why);
    }
}

/* What became of what the keeper was given. */
static void kept(const mcp_far_op_t *op, apr_status_t rv)
{
    if (!*op->member || rv == APR_SUCCESS) {
        return;
    }
    if (rv == APR_EEXIST) {
        /* It has moved, or is somebody else's: the next request asks. */
        mcp_session_forget(mcp_proxy_sessions(), &op->key);
    }
    else {
        mcp_session_told(mcp_proxy_sessions(), &op->key, 0);
    }
}

static void count_error(apr_status_t rv)
{
    if (rv != APR_SUCCESS && rv != APR_EBUSY) {
        mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STORE_ERRORS, 1);
    }
}

void mcp_far_count(apr_status_t rv, apr_interval_time_t took)
{
    count_error(rv);
    if (rv != APR_EBUSY) {
        mcp_shared_time_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_STORE_TIME, took);
    }
}

void mcp_far_met(const mcp_redis_info_t *info)
{
    apr_uint64_t server = 14695981039346656037u, before; /* FNV-1a */
    const char *c;

    if (!*info->run_id) {
        return;
    }
    for (c = info->run_id; *c; c++) {
        server = (server ^ (unsigned char)*c) * 1099511628211u;
    }
    before = __atomic_load_n(&far.shared->server, __ATOMIC_ACQUIRE);
    if (before != server
        && __atomic_compare_exchange_n(&far.shared->server, &before, server, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED)
        && before) {
        __atomic_store_n(&far.shared->restarted, mcp_clock_now(), __ATOMIC_RELEASE);
    }
}

void mcp_far_child_init(apr_pool_t *pchild, server_rec *s, mcp_far_shared_t *shared)
{
    apr_pool_t *p = pchild;
    mcp_redis_options_t options = { &shared->breaker, store_changed, NULL };
    mcp_far_keeper_options_t keeper = { .done = kept, .met = mcp_far_met, .count = count_error };
    int is_threaded = AP_MPMQ_NOT_SUPPORTED;

    ap_mpm_query(AP_MPMQ_IS_THREADED, &is_threaded);
    /* prefork destroys its pools in a signal handler, where nothing can be waited for: there the
     * thread's connections outlive them. */
    if (is_threaded == AP_MPMQ_NOT_SUPPORTED
        && apr_pool_create_unmanaged_ex(&p, NULL, NULL) != APR_SUCCESS) {
        return;
    }
    far.server = s;
    far.shared = shared;
    far.ttl = mcp_proxy_server_conf(MCP_PROXY_SESSION_TTL);
    far.redis = mcp_redis_create(mcp_proxy_session_store(), &options, p);
    keeper.redis = far.redis;
    keeper.ttl = far.ttl;
    far.keeper = mcp_far_keeper_start(&keeper, is_threaded != AP_MPMQ_NOT_SUPPORTED, pchild);
    if (!far.keeper) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, s, MCP_LOGNO(2102)
                     "no thread for the session store: other gateways will forget sessions that "
                     "are used here");
    }
}

int mcp_far_is_on(void)
{
    return far.redis != NULL;
}

mcp_redis_t *mcp_far_redis(void)
{
    return far.redis;
}

/* ---- ids that are not there ---- */

static absent_t *absent_slot(const mcp_session_key_t *key)
{
    apr_uint32_t n;

    memcpy(&n, key->id, sizeof(n));
    return &far.absent[n % ABSENT_SLOTS];
}

static void set_absent(const mcp_session_key_t *key, apr_time_t until)
{
    absent_t *slot = absent_slot(key);

    pthread_mutex_lock(&far.absent_lock);
    memcpy(slot->id, key->id, sizeof(slot->id));
    slot->until = until;
    pthread_mutex_unlock(&far.absent_lock);
}

static int is_absent(const mcp_session_key_t *key)
{
    const absent_t *slot = absent_slot(key);
    int is;

    pthread_mutex_lock(&far.absent_lock);
    is = slot->until > mcp_clock_now() && memcmp(slot->id, key->id, sizeof(slot->id)) == 0;
    pthread_mutex_unlock(&far.absent_lock);
    return is;
}

/* ---- looking up ---- */

static int index_of(const mcp_far_ask_t *ask, const mcp_session_key_t *key)
{
    int i;

    for (i = 0; i < ask->count; i++) {
        if (memcmp(ask->sessions[i].id, key->id, sizeof(key->id)) == 0) {
            return i;
        }
    }
    return -1;
}

apr_status_t mcp_far_want(request_rec *r, mcp_far_ask_t **asks, const mcp_session_key_t *key,
                          apr_status_t here, apr_status_t unanswered)
{
    mcp_far_ask_t *ask = *asks;

    if (!far.redis || is_absent(key)) {
        return APR_NOTFOUND;
    }
    if (mcp_redis_is_open(far.redis)) {
        return APR_EBUSY;
    }
    if (!ask) {
        *asks = ask = apr_pcalloc(r->pool, sizeof(*ask));
    }
    if (index_of(ask, key) >= 0) {
        return APR_SUCCESS;
    }
    if (ask->count == ASK_MOST) {
        ask->too_many = 1;
        return APR_SUCCESS;
    }
    ask->found[ask->count] = unanswered;
    ask->here[ask->count] = here;
    ask->sessions[ask->count++] = *key;
    return APR_SUCCESS;
}

static void read_answers(mcp_far_ask_t *ask)
{
    const redisReply *all = ask->command.reply;
    int i;

    for (i = 0; i < ask->count && all->elements == (size_t)ask->count; i++) {
        const redisReply *one = all->element[i];

        ask->found[i] = APR_NOTFOUND;
        if (one->type == REDIS_REPLY_STRING) {
            ask->found[i] = mcp_far_parse(&ask->sessions[i], one->str, (apr_size_t)one->len,
                                          ask->members[i]);
        }
        if (ask->found[i] == APR_NOTFOUND) {
            set_absent(&ask->sessions[i], mcp_clock_now() + ABSENT_FOR);
            ask->found[i] = ask->here[i];
        }
    }
}

static apr_status_t ask_ended(mcp_far_ask_t *ask, apr_status_t rv)
{
    mcp_far_count(rv, mcp_clock_now() - ask->started);
    if (rv == APR_SUCCESS) {
        mcp_far_met(&ask->job.info);
        if (ask->command.reply->type == REDIS_REPLY_ARRAY) {
            read_answers(ask);
        }
        mcp_redis_free_replies(&ask->command, 1);
    }
    return rv;
}

apr_status_t mcp_far_ask_start(mcp_far_ask_t *ask)
{
    apr_status_t rv;
    int i;

    ask->started = mcp_clock_now();
    ask->argv[0] = "MGET";
    ask->len[0] = 4;
    for (i = 0; i < ask->count; i++) {
        mcp_far_key(&ask->sessions[i], ask->keys[i]);
        ask->argv[1 + i] = ask->keys[i];
        ask->len[1 + i] = strlen(ask->keys[i]);
    }
    ask->command.argc = 1 + ask->count;
    ask->command.argv = ask->argv;
    ask->command.argvlen = ask->len;
    ask->command.expect = REDIS_REPLY_ARRAY;
    ask->job.commands = &ask->command;
    ask->job.count = 1;
    rv = mcp_redis_job_start(far.redis, &ask->job);
    return rv == APR_EAGAIN ? rv : ask_ended(ask, rv);
}

apr_time_t mcp_far_ask_deadline(const mcp_far_ask_t *ask)
{
    return ask->started + MCP_FAR_TIMEOUT;
}

apr_status_t mcp_far_ask_wait(mcp_far_ask_t *ask, apr_time_t until)
{
    apr_status_t rv = mcp_redis_job_wait(far.redis, &ask->job, until);

    if (rv == APR_EAGAIN && mcp_clock_now() >= mcp_far_ask_deadline(ask)) {
        rv = mcp_redis_job_cancel(far.redis, &ask->job);
    }
    return rv == APR_EAGAIN ? rv : ask_ended(ask, rv);
}

static void on_answers(void *baton, apr_status_t rv)
{
    mcp_far_ask_t *ask = baton;

    ask_ended(ask, rv);
    mcp_park_work(ask->park, mcp_park_run_fixups, NULL);
}

static void wait_on_loop(mcp_park_t *park, void *baton)
{
    mcp_far_ask_t *ask = baton;

    mcp_redis_wait_start(&ask->wait, mcp_park_loop(park));
}

int mcp_far_ask_park(mcp_far_ask_t *ask, mcp_park_t *park)
{
    ask->park = park;
    ask->wait.redis = far.redis;
    ask->wait.job = &ask->job;
    ask->wait.deadline = mcp_far_ask_deadline(ask);
    ask->wait.done = on_answers;
    ask->wait.baton = ask;
    return mcp_park_leave(park, wait_on_loop, ask);
}

apr_status_t mcp_far_answer(const mcp_far_ask_t *ask, const mcp_session_key_t *key,
                            const char **member)
{
    int i = index_of(ask, key);

    if (i < 0) {
        return APR_NOTFOUND;
    }
    *member = ask->members[i];
    return ask->found[i];
}

int mcp_far_is_any_foreign(const mcp_far_ask_t *ask)
{
    int i;

    for (i = 0; i < ask->count; i++) {
        if (ask->found[i] == APR_EACCES) {
            return 1;
        }
    }
    return ask->too_many;
}

/* ---- writing ---- */

static int make_op(mcp_far_op_t *op, const mcp_session_key_t *key, const proxy_worker *worker)
{
    char value[MCP_FAR_VALUE_SIZE];

    op->key = *key;
    mcp_proxy_member_copy_name(worker, op->member, sizeof(op->member));
    return mcp_far_value(key, op->member, value);
}

/* Write it when there is time, or have that done when the session is used next. */
static void leave_to_keeper(const mcp_far_op_t *op)
{
    if (!far.keeper || mcp_redis_is_open(far.redis) || !mcp_far_keeper_post(far.keeper, op)) {
        mcp_session_told(mcp_proxy_sessions(), &op->key, 0);
    }
}

static apr_status_t put_ended(mcp_far_put_t *put, apr_status_t rv)
{
    mcp_far_count(rv, mcp_clock_now() - put->started);
    if (rv == APR_SUCCESS) {
        mcp_far_met(&put->job.info);
        if (put->command.reply->type != REDIS_REPLY_STATUS) {
            rv = APR_EGENERAL;
        }
        mcp_redis_free_replies(&put->command, 1);
    }
    if (rv == APR_SUCCESS) {
        set_absent(&put->op.key, 0);
        mcp_session_told(mcp_proxy_sessions(), &put->op.key, mcp_clock_now());
    }
    else {
        leave_to_keeper(&put->op);
    }
    return rv;
}

/* SET KEY VALUE PX TTL: the backend has issued this id now, whatever stood there. */
static void format_put(mcp_far_put_t *put, const mcp_session_key_t *key, apr_pool_t *p)
{
    int i;

    mcp_far_key(key, put->key);
    mcp_far_value(key, put->op.member, put->value);
    put->argv[0] = "SET";
    put->argv[1] = put->key;
    put->argv[2] = put->value;
    put->argv[3] = "PX";
    put->argv[4] = apr_psprintf(p, "%" APR_INT64_T_FMT, (apr_int64_t)apr_time_as_msec(far.ttl));
    for (i = 0; i < 5; i++) {
        put->len[i] = strlen(put->argv[i]);
    }
    put->command.argc = 5;
    put->command.argv = put->argv;
    put->command.argvlen = put->len;
    put->job.commands = &put->command;
    put->job.count = 1;
}

mcp_far_put_t *mcp_far_put_start(request_rec *r, const mcp_session_key_t *key,
                                 const proxy_worker *worker)
{
    mcp_far_put_t *put;
    apr_status_t rv;

    if (!far.redis || mcp_redis_is_open(far.redis)) {
        return NULL;
    }
    put = apr_pcalloc(r->pool, sizeof(*put));
    if (!make_op(&put->op, key, worker)) {
        return NULL;
    }
    format_put(put, key, r->pool);
    put->started = mcp_clock_now();
    rv = mcp_redis_job_start(far.redis, &put->job);
    if (rv == APR_EAGAIN) {
        return put;
    }
    put_ended(put, rv);
    return NULL;
}

int mcp_far_put_fd(const mcp_far_put_t *put, short *events)
{
    *events = put->job.events;
    return put->job.fd;
}

apr_time_t mcp_far_put_deadline(const mcp_far_put_t *put)
{
    return put->started + MCP_FAR_TIMEOUT;
}

apr_status_t mcp_far_put_step(mcp_far_put_t *put)
{
    apr_status_t rv = mcp_redis_job_step(far.redis, &put->job);

    if (rv == APR_EAGAIN && mcp_clock_now() >= mcp_far_put_deadline(put)) {
        rv = mcp_redis_job_cancel(far.redis, &put->job);
    }
    return rv == APR_EAGAIN ? rv : put_ended(put, rv);
}

void mcp_far_put_end(mcp_far_put_t *put)
{
    mcp_redis_job_abandon(&put->job);
    leave_to_keeper(&put->op);
}

/* ---- behind the request's back ---- */

apr_interval_time_t mcp_far_renew_every(void)
{
    apr_interval_time_t every = far.ttl / 8;

    if (!far.redis || every > RENEW_MOST) {
        return RENEW_MOST;
    }
    return every < RENEW_LEAST ? RENEW_LEAST : every;
}

/* What the store was told before this, it has to be told again; 0: nothing. */
static apr_time_t told_since(apr_time_t now)
{
    apr_time_t restarted = __atomic_load_n(&far.shared->restarted, __ATOMIC_ACQUIRE);
    apr_time_t since = now - mcp_far_renew_every();

    if (mcp_redis_is_open(far.redis)) {
        return 0;
    }
    since = since > restarted ? since : restarted;
    return since > 0 ? since : 1; /* the clock began when the machine did */
}

apr_status_t mcp_far_use(const mcp_session_key_t *key, const proxy_balancer *balancer,
                         const proxy_worker *worker, apr_uint64_t *member)
{
    apr_time_t now = mcp_clock_now();
    mcp_far_op_t op = { .replaces = 0 };
    apr_status_t rv;
    int due;

    rv = mcp_session_use(mcp_proxy_sessions(), key, now, far.redis ? told_since(now) : 0, member,
                         &due);
    if (due) {
        worker = balancer ? mcp_proxy_member_by_hash(balancer, *member) : worker;
        if (worker && make_op(&op, key, worker)) {
            leave_to_keeper(&op);
        }
    }
    return rv;
}

void mcp_far_move(const mcp_session_key_t *key, const proxy_worker *worker)
{
    mcp_far_op_t op = { .replaces = 1 };

    if (far.redis && make_op(&op, key, worker)) {
        leave_to_keeper(&op);
    }
}

void mcp_far_forget(const mcp_session_key_t *key)
{
    mcp_far_op_t op = { .key = *key };

    if (far.keeper) {
        mcp_far_keeper_post(far.keeper, &op);
    }
}
