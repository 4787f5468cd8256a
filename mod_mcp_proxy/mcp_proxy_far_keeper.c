/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue and one thread. What gathers while one pipeline is under way goes with the next. The lock
 * covers the queue only, never a call.
 */
#include "mcp_proxy_far_keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_clock.h"
#include "mcp_thread.h"

#define QUEUE 4096
#define BATCH 256
#define ARGS 7
#define BUDGET apr_time_from_msec(500)
#define LAST_BUDGET apr_time_from_msec(200)
#define PROBE_TIMEOUT apr_time_from_msec(200)
#define TICK apr_time_from_msec(250)
#define LOOK_EVERY apr_time_from_sec(1)

/*
 * A gateway that still knows a session as it was must not undo what another one has done since: it
 * writes only what is missing, or there already. What is kept for a rescue (mcp_proxy_rescue_far.h)
 * lives as long.
 */
static const char write_source[] =
    "local v = redis.call('GET', KEYS[1])\n"
    "if v and v ~= ARGV[1] and ARGV[3] ~= '1' then return 0 end\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "redis.call('PEXPIRE', KEYS[1] .. ':params', ARGV[2])\n"
    "redis.call('PEXPIRE', KEYS[1] .. ':route', ARGV[2])\n"
    "return 1\n";
static const char forget_source[] =
    "local v = redis.call('GET', KEYS[1])\n"
    "if v and string.sub(v, 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end\n"
    "return 0\n";

struct mcp_far_keeper_t {
    mcp_far_keeper_options_t options;
    mcp_redis_script_t write, forget;
    char px[24];
    mcp_thread_t thread;
    pthread_mutex_t mutex; /* for what follows */
    unsigned first, count;
    mcp_far_op_t queue[QUEUE];
};

/* One pipeline. */
typedef struct batch_t {
    int count;
    mcp_far_op_t ops[BATCH];
    mcp_redis_command_t commands[BATCH];
    const char *argv[BATCH][ARGS];
    size_t len[BATCH][ARGS];
    char keys[BATCH][MCP_FAR_KEY_SIZE];
    char values[BATCH][MCP_FAR_VALUE_SIZE];
} batch_t;

static int take(mcp_far_keeper_t *k, batch_t *batch)
{
    pthread_mutex_lock(&k->mutex);
    for (batch->count = 0; k->count && batch->count < BATCH; batch->count++) {
        batch->ops[batch->count] = k->queue[k->first];
        k->first = (k->first + 1) % QUEUE;
        k->count--;
    }
    pthread_mutex_unlock(&k->mutex);
    return batch->count;
}

static void add(batch_t *batch, int i, const char *text)
{
    mcp_redis_command_t *c = &batch->commands[i];

    batch->argv[i][c->argc] = text;
    batch->len[i][c->argc++] = strlen(text);
}

static void format(const mcp_far_keeper_t *k, batch_t *batch, int i)
{
    const mcp_far_op_t *op = &batch->ops[i];
    mcp_redis_command_t *c = &batch->commands[i];

    memset(c, 0, sizeof(*c));
    c->argv = batch->argv[i];
    c->argvlen = batch->len[i];
    c->expect = REDIS_REPLY_INTEGER;
    c->argc = 2;
    c->script = *op->member ? &k->write : &k->forget;
    mcp_far_key(&op->key, batch->keys[i]);
    if (*op->member) {
        mcp_far_value(&op->key, op->member, batch->values[i]);
    }
    else {
        mcp_far_owner(&op->key, batch->values[i]);
    }
    add(batch, i, "1");
    add(batch, i, batch->keys[i]);
    add(batch, i, batch->values[i]);
    if (*op->member) {
        add(batch, i, k->px);
        add(batch, i, op->replaces ? "1" : "0");
    }
}

static apr_status_t outcome(const mcp_redis_command_t *c)
{
    if (c->reply->type != REDIS_REPLY_INTEGER) {
        return APR_EGENERAL;
    }
    return c->reply->integer ? APR_SUCCESS : APR_EEXIST;
}

static apr_status_t call(mcp_far_keeper_t *k, mcp_redis_command_t *commands, int count,
                         apr_interval_time_t budget)
{
    mcp_redis_info_t info = { 0 };
    apr_status_t rv = mcp_redis_run(k->options.redis, commands, count, mcp_clock_now() + budget,
                                    &info);

    k->options.count(rv);
    if (rv == APR_SUCCESS) {
        k->options.met(&info);
    }
    return rv;
}

static void run_batch(mcp_far_keeper_t *k, batch_t *batch, apr_interval_time_t budget)
{
    apr_status_t rv;
    int i;

    for (i = 0; i < batch->count; i++) {
        format(k, batch, i);
    }
    rv = call(k, batch->commands, batch->count, budget);
    for (i = 0; i < batch->count; i++) {
        k->options.done(&batch->ops[i], rv == APR_SUCCESS ? outcome(&batch->commands[i]) : rv);
    }
    if (rv == APR_SUCCESS) {
        mcp_redis_free_replies(batch->commands, batch->count);
    }
}

/* Whether it is still there, and still the same: nobody else asks while all sessions are known. */
static void look(mcp_far_keeper_t *k)
{
    const char *argv[] = { "GET", "mcp:session:{}" };
    const size_t len[] = { 3, 14 };
    mcp_redis_command_t command = { .argc = 2, .argv = argv, .argvlen = len };

    if (call(k, &command, 1, BUDGET) == APR_SUCCESS) {
        mcp_redis_free_replies(&command, 1);
    }
}

static void wait_for_work(mcp_far_keeper_t *k)
{
    pthread_mutex_lock(&k->mutex);
    if (!k->count) {
        mcp_thread_wait_locked(&k->thread, TICK);
    }
    pthread_mutex_unlock(&k->mutex);
}

static void *run(void *data)
{
    mcp_far_keeper_t *k = data;
    batch_t *batch = malloc(sizeof(*batch));
    apr_time_t look_at = 0;

    while (batch && !mcp_thread_is_stopped(&k->thread)) {
        apr_time_t now = mcp_clock_now();

        mcp_redis_maintain(k->options.redis, PROBE_TIMEOUT);
        if (take(k, batch)) {
            run_batch(k, batch, BUDGET);
            look_at = now + LOOK_EVERY;
        }
        else if (now >= look_at && !mcp_redis_is_open(k->options.redis)) {
            look(k);
            look_at = now + LOOK_EVERY;
        }
        wait_for_work(k);
    }
    /* What was posted last, as the end of a session. */
    while (batch && !mcp_redis_is_open(k->options.redis) && take(k, batch)) {
        run_batch(k, batch, LAST_BUDGET);
    }
    free(batch);
    return NULL;
}

mcp_far_keeper_t *mcp_far_keeper_start(const mcp_far_keeper_options_t *options, int waits,
                                       apr_pool_t *p)
{
    /* Never freed: requests of a child that is exiting may still end after the thread. */
    mcp_far_keeper_t *k = calloc(1, sizeof(*k));

    if (!k) {
        return NULL;
    }
    k->options = *options;
    mcp_redis_script_init(&k->write, write_source);
    mcp_redis_script_init(&k->forget, forget_source);
    snprintf(k->px, sizeof(k->px), "%lld", (long long)apr_time_as_msec(options->ttl));
    pthread_mutex_init(&k->mutex, NULL);
    if (mcp_thread_start(&k->thread, run, k, &k->mutex) != APR_SUCCESS) {
        free(k);
        return NULL;
    }
    mcp_thread_end_with(&k->thread, waits, p);
    return k;
}

int mcp_far_keeper_post(mcp_far_keeper_t *k, const mcp_far_op_t *op)
{
    int taken;

    pthread_mutex_lock(&k->mutex);
    taken = !mcp_thread_is_stopped(&k->thread) && k->count < QUEUE;
    if (taken) {
        k->queue[(k->first + k->count++) % QUEUE] = *op;
        mcp_thread_wake_locked(&k->thread);
    }
    pthread_mutex_unlock(&k->mutex);
    return taken;
}
