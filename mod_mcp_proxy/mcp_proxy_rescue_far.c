/* SPDX-License-Identifier: Apache-2.0 */
/* One pipeline for each thing that is done to the records of a session in Redis. */
#include "mcp_proxy_rescue_far.h"

#include <apr_escape.h>
#include <apr_strings.h>
#include <string.h>

#include "mcp_clock.h"

#define MOST_COMMANDS 3
#define MOST_ARGS 10

typedef struct pipeline_t {
    apr_pool_t *p;
    int count;
    mcp_redis_command_t commands[MOST_COMMANDS];
    const char *argv[MOST_COMMANDS][MOST_ARGS];
    size_t len[MOST_COMMANDS][MOST_ARGS];
} pipeline_t;

/* KEYS[1] the claim, ARGV[1] whose, ARGV[2] for how long. */
static const char renew_source[] =
    "local c = redis.call('GET', KEYS[1])\n"
    "if c and c ~= ARGV[1] then return 0 end\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "return 1\n";

/* KEYS: claim, route, parameters. ARGV: whose claim, the route before and after, its life. */
static const char change_source[] =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end\n"
    "local r = redis.call('GET', KEYS[2])\n"
    "if r and r ~= ARGV[2] then return 0 end\n"
    "if ARGV[3] ~= '' then\n"
    "  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])\n"
    "  redis.call('PEXPIRE', KEYS[3], ARGV[4])\n"
    "end\n"
    "return 1\n";

static const char *key_of(const mcp_session_key_t *session, const char *what, apr_pool_t *p)
{
    return apr_pstrcat(p, "mcp:session:{",
                       apr_pescape_hex(p, session->id, sizeof(session->id), 0), "}:", what, NULL);
}

static void add(pipeline_t *pipeline, const char *text, apr_size_t len)
{
    int i = pipeline->count - 1;
    mcp_redis_command_t *command = &pipeline->commands[i];

    pipeline->argv[i][command->argc] = len ? text : "";
    pipeline->len[i][command->argc++] = len;
}

static void add_text(pipeline_t *pipeline, const char *text)
{
    add(pipeline, text, strlen(text));
}

static void add_msec(pipeline_t *pipeline, apr_interval_time_t time)
{
    add_text(pipeline, apr_psprintf(pipeline->p, "%" APR_INT64_T_FMT,
                                    (apr_int64_t)apr_time_as_msec(time)));
}

static mcp_redis_command_t *begin(pipeline_t *pipeline, const char *name)
{
    int i = pipeline->count++;
    mcp_redis_command_t *command = &pipeline->commands[i];

    command->argv = pipeline->argv[i];
    command->argvlen = pipeline->len[i];
    if (name) {
        add_text(pipeline, name);
    }
    return command;
}

static void set(pipeline_t *pipeline, const char *key, mcp_span_t value, apr_interval_time_t ttl)
{
    begin(pipeline, "SET");
    add_text(pipeline, key);
    add(pipeline, value.p, value.len);
    add_text(pipeline, "PX");
    add_msec(pipeline, ttl);
}

static void get(pipeline_t *pipeline, const char *key)
{
    begin(pipeline, "GET");
    add_text(pipeline, key);
}

static apr_status_t run(const mcp_rescue_far_t *far, pipeline_t *pipeline,
                        apr_interval_time_t timeout)
{
    apr_time_t before = mcp_clock_now();
    mcp_redis_info_t info = { 0 };
    apr_status_t rv = mcp_redis_run(far->redis, pipeline->commands, pipeline->count,
                                    before + timeout, &info);

    if (far->ended) {
        far->ended(rv, mcp_clock_now() - before, &info);
    }
    return rv;
}

static apr_status_t run_and_forget(const mcp_rescue_far_t *far, pipeline_t *pipeline,
                                   apr_interval_time_t timeout)
{
    apr_status_t rv = run(far, pipeline, timeout);
    int i;

    if (rv != APR_SUCCESS) {
        return rv;
    }
    for (i = 0; i < pipeline->count; i++) {
        rv = pipeline->commands[i].reply->type == REDIS_REPLY_ERROR ? APR_EGENERAL : rv;
    }
    mcp_redis_free_replies(pipeline->commands, pipeline->count);
    return rv;
}

apr_status_t mcp_rescue_far_remember(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                     mcp_span_t params, apr_interval_time_t ttl, apr_pool_t *p)
{
    pipeline_t pipeline = { .p = p };

    set(&pipeline, key_of(session, "params", p), params, ttl);
    begin(&pipeline, "DEL");
    add_text(&pipeline, key_of(session, "route", p));
    return run_and_forget(far, &pipeline, MCP_RESCUE_FAR_TIMEOUT);
}

static mcp_span_t copy_of(const redisReply *reply, apr_pool_t *p)
{
    mcp_span_t none = { NULL, 0 };

    return reply->type == REDIS_REPLY_STRING
        ? (mcp_span_t){ apr_pmemdup(p, reply->str, reply->len), reply->len } : none;
}

apr_status_t mcp_rescue_far_claim(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                  mcp_span_t token, apr_interval_time_t life, apr_pool_t *p,
                                  mcp_span_t *params, mcp_span_t *route)
{
    pipeline_t pipeline = { .p = p };
    apr_status_t rv;

    *params = *route = (mcp_span_t){ NULL, 0 };
    set(&pipeline, key_of(session, "claim", p), token, life);
    add_text(&pipeline, "NX");
    get(&pipeline, key_of(session, "params", p));
    get(&pipeline, key_of(session, "route", p));
    rv = run(far, &pipeline, MCP_RESCUE_FAR_CLAIM_TIMEOUT);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *params = copy_of(pipeline.commands[1].reply, p);
    *route = copy_of(pipeline.commands[2].reply, p);
    if (pipeline.commands[0].reply->type != REDIS_REPLY_STATUS) {
        rv = pipeline.commands[0].reply->type == REDIS_REPLY_NIL ? APR_EBUSY : APR_EGENERAL;
    }
    mcp_redis_free_replies(pipeline.commands, pipeline.count);
    return rv;
}

/* A script of so many keys, which follow, and their arguments. */
static void begin_script(pipeline_t *pipeline, const mcp_redis_script_t *script, const char *keys)
{
    mcp_redis_command_t *command = begin(pipeline, NULL);

    command->script = script;
    command->expect = REDIS_REPLY_INTEGER;
    command->argc = 2; /* the script's own */
    add_text(pipeline, keys);
}

/* What a script said: 0 where another one has been there. */
static apr_status_t run_script(const mcp_rescue_far_t *far, pipeline_t *pipeline)
{
    apr_status_t rv = run(far, pipeline, MCP_RESCUE_FAR_CLAIM_TIMEOUT);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    if (pipeline->commands[0].reply->type != REDIS_REPLY_INTEGER) {
        rv = APR_EGENERAL;
    }
    else if (!pipeline->commands[0].reply->integer) {
        rv = APR_EEXIST;
    }
    mcp_redis_free_replies(pipeline->commands, pipeline->count);
    return rv;
}

apr_status_t mcp_rescue_far_renew(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                  mcp_span_t token, apr_interval_time_t life, apr_pool_t *p)
{
    pipeline_t pipeline = { .p = p };
    mcp_redis_script_t script;

    mcp_redis_script_init(&script, renew_source);
    begin_script(&pipeline, &script, "1");
    add_text(&pipeline, key_of(session, "claim", p));
    add(&pipeline, token.p, token.len);
    add_msec(&pipeline, life);
    return run_script(far, &pipeline);
}

apr_status_t mcp_rescue_far_change(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                   const mcp_rescue_change_t *change, apr_pool_t *p)
{
    pipeline_t pipeline = { .p = p };
    mcp_redis_script_t script;

    mcp_redis_script_init(&script, change_source);
    begin_script(&pipeline, &script, "3");
    add_text(&pipeline, key_of(session, "claim", p));
    add_text(&pipeline, key_of(session, "route", p));
    add_text(&pipeline, key_of(session, "params", p));
    add(&pipeline, change->token.p, change->token.len);
    add(&pipeline, change->before.p, change->before.len);
    add(&pipeline, change->after.p, change->after.p ? change->after.len : 0);
    add_msec(&pipeline, change->ttl);
    return run_script(far, &pipeline);
}

void mcp_rescue_far_forget(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                           apr_pool_t *p)
{
    pipeline_t pipeline = { .p = p };

    begin(&pipeline, "DEL");
    add_text(&pipeline, key_of(session, "params", p));
    add_text(&pipeline, key_of(session, "route", p));
    run_and_forget(far, &pipeline, MCP_RESCUE_FAR_TIMEOUT);
}
