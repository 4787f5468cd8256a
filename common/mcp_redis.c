/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Redis client: idle connections, logging in, pipelines, scripts, the breaker. A job is a small
 * state machine over one connection: log in (new connections only), the commands, then once more
 * those scripts that the server did not know. The idle list is a stack, so that few connections
 * serve a light load and the others age and go; `lock` protects it and nothing else.
 */
#include "mcp_redis.h"

#include <apr_network_io.h>
#include <apr_sha1.h>
#include <apr_strings.h>
#include <apr_thread_mutex.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_clock.h"
#include "mcp_redis_wire.h"

#define IDLE_TTL apr_time_from_sec(60)
#define MAX_HELLO 3

enum { STAGE_HELLO, STAGE_COMMANDS, STAGE_SCRIPTS };

struct mcp_redis_t {
    const mcp_store_url_t *url;
    mcp_redis_options_t options;
    mcp_breaker_t own_breaker;
    apr_thread_mutex_t *lock;  /* of what follows */
    apr_sockaddr_t address;    /* salen 0: unknown host, or a unix socket */
    mcp_redis_wire_t *idle;
    apr_time_t resolve_at;     /* of the one thread that maintains */
};

void mcp_redis_script_init(mcp_redis_script_t *script, const char *source)
{
    unsigned char digest[APR_SHA1_DIGESTSIZE];
    apr_sha1_ctx_t context;
    int i;

    script->source = source;
    script->length = strlen(source);
    apr_sha1_init(&context);
    apr_sha1_update(&context, source, (unsigned int)script->length);
    apr_sha1_final(digest, &context);
    for (i = 0; i < APR_SHA1_DIGESTSIZE; i++) {
        snprintf(script->sha + 2 * i, 3, "%02x", digest[i]);
    }
}

static void close_idle(mcp_redis_t *redis, apr_time_t before)
{
    mcp_redis_wire_t *gone = NULL, **link = &redis->idle, *w;

    apr_thread_mutex_lock(redis->lock);
    while ((w = *link) != NULL) {
        if (w->idle_since < before) {
            *link = w->next;
            w->next = gone;
            gone = w;
        }
        else {
            link = &w->next;
        }
    }
    apr_thread_mutex_unlock(redis->lock);
    while ((w = gone) != NULL) {
        gone = w->next;
        mcp_redis_wire_close(w);
    }
}

static apr_status_t destroy(void *data)
{
    close_idle(data, APR_INT64_MAX);
    return APR_SUCCESS;
}

/* What is known of a host stays where it cannot be asked for anew. */
static void resolve(mcp_redis_t *redis)
{
    apr_sockaddr_t *found;
    apr_pool_t *p;

    if (redis->url->kind != MCP_STORE_REDIS
        || apr_pool_create_unmanaged_ex(&p, NULL, NULL) != APR_SUCCESS) {
        return;
    }
    if (apr_sockaddr_info_get(&found, redis->url->host, APR_UNSPEC, redis->url->port, 0, p)
        == APR_SUCCESS) {
        apr_thread_mutex_lock(redis->lock);
        redis->address = *found;
        apr_thread_mutex_unlock(redis->lock);
    }
    apr_pool_destroy(p);
}

static apr_sockaddr_t address_of(mcp_redis_t *redis)
{
    apr_sockaddr_t address;

    apr_thread_mutex_lock(redis->lock);
    address = redis->address;
    apr_thread_mutex_unlock(redis->lock);
    return address;
}

mcp_redis_t *mcp_redis_create(const mcp_store_url_t *url, const mcp_redis_options_t *options,
                              apr_pool_t *p)
{
    mcp_redis_t *redis = apr_pcalloc(p, sizeof(*redis));

    redis->url = url;
    if (options) {
        redis->options = *options;
    }
    if (!redis->options.breaker) {
        redis->options.breaker = &redis->own_breaker;
    }
    apr_thread_mutex_create(&redis->lock, APR_THREAD_MUTEX_DEFAULT, p);
    resolve(redis);
    apr_pool_cleanup_register(p, redis, destroy, apr_pool_cleanup_null);
    return redis;
}

int mcp_redis_is_open(const mcp_redis_t *redis)
{
    return mcp_breaker_is_open(redis->options.breaker);
}

static void note_success(mcp_redis_t *redis)
{
    if (mcp_breaker_success(redis->options.breaker) && redis->options.changed) {
        redis->options.changed(redis->options.baton, 1, redis->url->name, "");
    }
}

static void note_failure(mcp_redis_t *redis, const char *why, int hard)
{
    if (mcp_breaker_failure(redis->options.breaker, mcp_clock_now(), hard)) {
        close_idle(redis, APR_INT64_MAX);
        if (redis->options.changed) {
            redis->options.changed(redis->options.baton, 0, redis->url->name, why);
        }
    }
}

/* The job is over and its connection with it. */
static apr_status_t fail(mcp_redis_t *redis, mcp_redis_job_t *job, apr_status_t rv, int hard)
{
    if (!*job->info.why) {
        apr_strerror(rv, job->info.why, sizeof(job->info.why));
    }
    if (job->wire) {
        mcp_redis_wire_close(job->wire);
        job->wire = NULL;
    }
    mcp_redis_free_replies(job->commands, job->count);
    note_failure(redis, job->info.why, hard);
    return rv;
}

static apr_status_t fail_because(mcp_redis_t *redis, mcp_redis_job_t *job, int hard,
                                 const char *why)
{
    apr_cpystrn(job->info.why, why, sizeof(job->info.why));
    return fail(redis, job, APR_EGENERAL, hard);
}

static mcp_redis_wire_t *take_idle(mcp_redis_t *redis)
{
    mcp_redis_wire_t *w;

    for (;;) {
        apr_thread_mutex_lock(redis->lock);
        w = redis->idle;
        if (w) {
            redis->idle = w->next;
        }
        apr_thread_mutex_unlock(redis->lock);
        if (!w || !mcp_redis_wire_is_stale(w)) {
            return w;
        }
        mcp_redis_wire_close(w);
    }
}

static void give_back(mcp_redis_t *redis, mcp_redis_wire_t *wire)
{
    wire->idle_since = mcp_clock_now();
    apr_thread_mutex_lock(redis->lock);
    wire->next = redis->idle;
    redis->idle = wire;
    apr_thread_mutex_unlock(redis->lock);
}

/* A new connection to where the server was last known to be. */
static apr_status_t open_wire(mcp_redis_t *redis, mcp_redis_job_t *job)
{
    apr_sockaddr_t address = address_of(redis);

    if (!address.salen && redis->url->kind == MCP_STORE_REDIS) {
        apr_cpystrn(job->info.why, "the host is not known", sizeof(job->info.why));
        return APR_EGENERAL;
    }
    return mcp_redis_wire_open(&job->wire, &address, redis->url->path);
}

static apr_status_t append_words(mcp_redis_wire_t *wire, const char *a, const char *b,
                                 const char *c)
{
    const char *argv[3];
    size_t len[3];
    int n = 0;

    argv[n++] = a;
    argv[n++] = b;
    if (c) {
        argv[n++] = c;
    }
    len[0] = strlen(a);
    len[1] = strlen(b);
    len[2] = c ? strlen(c) : 0;
    return mcp_redis_wire_append(wire, n, argv, len);
}

/* AUTH, SELECT, INFO: what a new connection says first. */
static apr_status_t append_hello(mcp_redis_t *redis, mcp_redis_wire_t *wire)
{
    const mcp_store_url_t *url = redis->url;
    apr_status_t rv = APR_SUCCESS;
    char db[16];

    if (url->password) {
        rv = url->user ? append_words(wire, "AUTH", url->user, url->password)
                       : append_words(wire, "AUTH", url->password, NULL);
    }
    if (rv == APR_SUCCESS) {
        snprintf(db, sizeof(db), "%d", url->db);
        rv = append_words(wire, "SELECT", db, NULL);
    }
    return rv == APR_SUCCESS ? append_words(wire, "INFO", "server", NULL) : rv;
}

static apr_int64_t info_number(const char *text, const char *field)
{
    const char *at = strstr(text, field);

    return at ? apr_atoi64(at + strlen(field)) : 0;
}

/* A server that will not say (NOPERM) is served all the same. */
static void read_info(mcp_redis_wire_t *wire, const redisReply *reply)
{
    const char *at;
    apr_int64_t now, up;

    if (reply->type != REDIS_REPLY_STRING) {
        return;
    }
    at = strstr(reply->str, "run_id:");
    now = info_number(reply->str, "server_time_usec:");
    if (at && now > 0) {
        snprintf(wire->run_id, sizeof(wire->run_id), "%.40s", at + 7);
        wire->run_id[strcspn(wire->run_id, "\r\n")] = '\0';
        /* The difference of two times cut to seconds: it may be one too large. */
        up = info_number(reply->str, "uptime_in_seconds:") - 1;
        wire->server_start = now - apr_time_from_sec(up > 0 ? up : 0);
    }
}

/* Errors that say that this server, or this login, can serve nobody now. */
static int is_unfit(const char *error)
{
    static const char *const words[] = {
        "NOAUTH", "WRONGPASS", "NOPERM", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "OOM",
        "MISCONF", "BUSY", "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN", "NOREPLICAS", "DENIED",
        "UNKILLABLE", NULL
    };
    /* Before Redis 7 an error inside a script stands behind a sentence. */
    const char *inner = strncmp(error, "ERR Error running script", 24) == 0 ? strchr(error, '-')
                                                                           : NULL;
    int i;

    for (i = 0; words[i]; i++) {
        size_t len = strlen(words[i]);

        if (strncmp(error, words[i], len) == 0 || (inner && !strncmp(inner + 1, words[i], len))) {
            return 1;
        }
    }
    return strncmp(error, "ERR max number of clients", 25) == 0
        || strncmp(error, "ERR invalid password", 20) == 0;
}

static apr_status_t append_command(mcp_redis_wire_t *wire, mcp_redis_command_t *c, int whole)
{
    size_t stack_len[32], *len = stack_len;
    apr_status_t rv;

    if (!c->script) {
        return mcp_redis_wire_append(wire, c->argc, c->argv, c->argvlen);
    }
    if (c->argc > 32) {
        len = malloc((size_t)c->argc * sizeof(*len));
        if (!len) {
            return APR_ENOMEM;
        }
    }
    memcpy(len, c->argvlen, (size_t)c->argc * sizeof(*len));
    c->argv[0] = whole ? "EVAL" : "EVALSHA";
    len[0] = strlen(c->argv[0]);
    c->argv[1] = whole ? c->script->source : c->script->sha;
    len[1] = whole ? c->script->length : 40;
    rv = mcp_redis_wire_append(wire, c->argc, c->argv, len);
    if (len != stack_len) {
        free(len);
    }
    return rv;
}

static apr_status_t enter_commands(mcp_redis_job_t *job)
{
    int i;

    job->stage = STAGE_COMMANDS;
    job->next = 0;
    job->info.sent = 1;
    memcpy(job->info.run_id, job->wire->run_id, sizeof(job->info.run_id));
    job->info.server_start = job->wire->server_start;
    if (job->info.prepare) {
        job->info.prepare(&job->info);
    }
    for (i = 0; i < job->count; i++) {
        apr_status_t rv = append_command(job->wire, &job->commands[i], 0);

        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    return APR_SUCCESS;
}

static int is_unknown_script(const mcp_redis_command_t *c)
{
    return c->script && c->reply && c->reply->type == REDIS_REPLY_ERROR
        && strncmp(c->reply->str, "NOSCRIPT", 8) == 0;
}

static apr_status_t enter_scripts(mcp_redis_job_t *job)
{
    apr_status_t rv = APR_SUCCESS;
    int i;

    job->stage = STAGE_SCRIPTS;
    job->next = job->count;
    for (i = job->count - 1; i >= 0; i--) {
        if (is_unknown_script(&job->commands[i])) {
            job->next = i;
        }
    }
    for (i = job->next; i < job->count && rv == APR_SUCCESS; i++) {
        if (is_unknown_script(&job->commands[i])) {
            rv = append_command(job->wire, &job->commands[i], 1);
        }
    }
    return rv;
}

static apr_status_t take_hello(mcp_redis_t *redis, mcp_redis_job_t *job, redisReply *reply)
{
    int is_info = job->next == (redis->url->password ? 2 : 1);
    int is_ok = reply->type == REDIS_REPLY_STATUS && strcmp(reply->str, "OK") == 0;
    int is_error = reply->type == REDIS_REPLY_ERROR;
    apr_status_t rv = APR_SUCCESS;

    if (is_info) {
        read_info(job->wire, reply);
        is_ok = reply->type == REDIS_REPLY_STRING
            || (is_error && strncmp(reply->str, "NOPERM", 6) == 0);
    }
    if (!is_ok) {
        rv = fail_because(redis, job, 1, is_error ? reply->str : "no Redis server answers there");
    }
    freeReplyObject(reply);
    job->next++;
    if (rv == APR_SUCCESS && is_info) {
        rv = enter_commands(job);
        return rv == APR_SUCCESS ? rv : fail(redis, job, rv, 0);
    }
    return rv;
}

static apr_status_t take_reply(mcp_redis_t *redis, mcp_redis_job_t *job, redisReply *reply)
{
    mcp_redis_command_t *c = &job->commands[job->next];

    if (c->reply) {
        freeReplyObject(c->reply);
    }
    c->reply = reply;
    if (reply->type == REDIS_REPLY_ERROR && is_unfit(reply->str)) {
        return fail_because(redis, job, 1, reply->str);
    }
    if (is_unknown_script(c)) {
        if (job->stage == STAGE_SCRIPTS) {
            return fail_because(redis, job, 0, "the server forgets scripts at once");
        }
        job->failed_scripts++;
    }
    else if (reply->type != REDIS_REPLY_ERROR && c->expect && reply->type != c->expect) {
        return fail_because(redis, job, 0, "a reply of an unexpected type");
    }
    do {
        job->next++;
    } while (job->stage == STAGE_SCRIPTS && job->next < job->count
             && !is_unknown_script(&job->commands[job->next]));
    if (job->next < job->count) {
        return APR_SUCCESS;
    }
    if (job->stage == STAGE_COMMANDS && job->failed_scripts) {
        apr_status_t rv = enter_scripts(job);

        return rv == APR_SUCCESS ? rv : fail(redis, job, rv, 0);
    }
    return APR_SUCCESS;
}

static int is_done(const mcp_redis_job_t *job)
{
    return job->stage != STAGE_HELLO && job->next >= job->count;
}

static apr_status_t finish(mcp_redis_t *redis, mcp_redis_job_t *job)
{
    if (mcp_redis_wire_has_leftover(job->wire)) {
        return fail_because(redis, job, 0, "more replies than questions");
    }
    if (!job->keeps_wire) {
        give_back(redis, job->wire);
        job->wire = NULL;
    }
    note_success(redis);
    return APR_SUCCESS;
}

apr_status_t mcp_redis_job_step(mcp_redis_t *redis, mcp_redis_job_t *job)
{
    while (!is_done(job)) {
        redisReply *reply = NULL;
        int is_fresh = job->wire->out_sent < job->wire->out_len;
        apr_status_t rv = mcp_redis_wire_flush(job->wire);

        job->events = POLLOUT;
        if (rv == APR_SUCCESS) {
            job->events = POLLIN;
            /* What has just been sent cannot have been answered: wait, do not look. */
            rv = is_fresh ? APR_EAGAIN : mcp_redis_wire_reply(job->wire, &reply);
        }
        if (rv == APR_EAGAIN) {
            return rv;
        }
        if (rv == APR_EGENERAL) {
            return fail_because(redis, job, 0, "what answers does not speak Redis");
        }
        if (rv != APR_SUCCESS) {
            return fail(redis, job, rv, job->wire->connecting);
        }
        rv = job->stage == STAGE_HELLO ? take_hello(redis, job, reply)
                                       : take_reply(redis, job, reply);
        if (rv != APR_SUCCESS) {
            return rv;
        }
    }
    return finish(redis, job);
}

apr_status_t mcp_redis_job_start(mcp_redis_t *redis, mcp_redis_job_t *job)
{
    apr_status_t rv;
    int i;

    for (i = 0; i < job->count; i++) {
        job->commands[i].reply = NULL;
    }
    if (!job->probe && mcp_redis_is_open(redis)) {
        apr_cpystrn(job->info.why, "not asked since it failed", sizeof(job->info.why));
        return APR_EBUSY;
    }
    job->wire = job->probe ? NULL : take_idle(redis);
    if (job->wire) {
        rv = enter_commands(job);
    }
    else {
        job->stage = STAGE_HELLO;
        rv = open_wire(redis, job);
        if (rv != APR_SUCCESS) {
            return fail(redis, job, rv, 1);
        }
        rv = append_hello(redis, job->wire);
    }
    if (rv != APR_SUCCESS) {
        return fail(redis, job, rv, 0);
    }
    job->fd = job->wire->fd;
    return mcp_redis_job_step(redis, job);
}

apr_status_t mcp_redis_job_cancel(mcp_redis_t *redis, mcp_redis_job_t *job)
{
    apr_cpystrn(job->info.why, "no answer in time", sizeof(job->info.why));
    return fail(redis, job, APR_TIMEUP, 0);
}

void mcp_redis_job_abandon(mcp_redis_job_t *job)
{
    if (job->wire) {
        mcp_redis_wire_close(job->wire);
        job->wire = NULL;
    }
    mcp_redis_free_replies(job->commands, job->count);
}

apr_status_t mcp_redis_job_wait(mcp_redis_t *redis, mcp_redis_job_t *job, apr_time_t until)
{
    apr_status_t rv = APR_EAGAIN;

    while (rv == APR_EAGAIN) {
        struct pollfd pfd = { .fd = job->fd, .events = job->events };
        apr_time_t left = until - mcp_clock_now();
        struct timespec ts = { .tv_sec = left / APR_USEC_PER_SEC,
                               .tv_nsec = (left % APR_USEC_PER_SEC) * 1000 };

        if (left <= 0) {
            return APR_EAGAIN;
        }
        if (ppoll(&pfd, 1, &ts, NULL) < 0 && errno != EINTR) {
            return fail(redis, job, errno, 0);
        }
        rv = mcp_redis_job_step(redis, job);
    }
    return rv;
}

static apr_status_t run_job(mcp_redis_t *redis, mcp_redis_job_t *job, apr_time_t deadline)
{
    apr_status_t rv = mcp_redis_job_start(redis, job);

    if (rv == APR_EAGAIN) {
        rv = mcp_redis_job_wait(redis, job, deadline);
    }
    return rv == APR_EAGAIN ? mcp_redis_job_cancel(redis, job) : rv;
}

apr_status_t mcp_redis_run(mcp_redis_t *redis, mcp_redis_command_t *commands, int count,
                           apr_time_t deadline, mcp_redis_info_t *info)
{
    mcp_redis_job_t job = { .commands = commands, .count = count };
    apr_status_t rv;

    if (info) {
        job.info = *info;
    }
    rv = run_job(redis, &job, deadline);
    if (info) {
        *info = job.info;
    }
    return rv;
}

void mcp_redis_free_replies(mcp_redis_command_t *commands, int count)
{
    int i;

    for (i = 0; i < count; i++) {
        if (commands[i].reply) {
            freeReplyObject(commands[i].reply);
            commands[i].reply = NULL;
        }
    }
}

/* A write, since a full or read-only server still answers PING. */
static void probe(mcp_redis_t *redis, apr_interval_time_t timeout)
{
    const char *argv[] = { "SET", "mcp_probe", "1", "PX", "1000" };
    const size_t len[] = { 3, 9, 1, 2, 4 };
    mcp_redis_command_t command = { .argc = 5, .argv = argv, .argvlen = len,
                                    .expect = REDIS_REPLY_STATUS };
    mcp_redis_job_t job = { .commands = &command, .count = 1, .probe = 1 };

    if (run_job(redis, &job, mcp_clock_now() + timeout) == APR_SUCCESS) {
        mcp_redis_free_replies(&command, 1);
    }
}

void mcp_redis_maintain(mcp_redis_t *redis, apr_interval_time_t timeout)
{
    apr_time_t now = mcp_clock_now();

    close_idle(redis, now - IDLE_TTL);
    /* It may have moved. Every process looks for itself, whoever probes. */
    if (mcp_redis_is_open(redis) && redis->resolve_at <= now) {
        redis->resolve_at = now + MCP_BREAKER_PROBE_EVERY;
        resolve(redis);
    }
    if (mcp_breaker_claim_probe(redis->options.breaker, now)) {
        probe(redis, timeout);
    }
}
