/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lookup is one pipeline: MGET of the values, the generations and the session's mark, and PTTL of
 * each value, since only Redis knows how long it keeps one. A miss that finds a generation missing
 * costs a second one, to make it. Replies are checked for number and type; whatever does not fit is
 * a miss. Nothing scans keys.
 */
#include "mcp_cache_redis.h"

#include <apr_general.h>
#include <apr_strings.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_clock.h"

#define WRITE_TIMEOUT apr_time_from_msec(250)
#define GENERATION_LIFE "604800" /* seconds; longer than most entries live */
#define MAX_ARGS (1 + MCP_CACHE_KEYS + MCP_CACHE_TAGS + 1)

typedef struct redis_store_t {
    mcp_cache_store_t store;
    mcp_cache_redis_options_t o;
} redis_store_t;

/* The arguments of one command. */
typedef struct args_t {
    const char *argv[MAX_ARGS];
    size_t len[MAX_ARGS];
    int count;
} args_t;

static void add_bytes(args_t *args, const char *bytes, apr_size_t len)
{
    args->argv[args->count] = bytes;
    args->len[args->count++] = len;
}

static void add(args_t *args, const char *text)
{
    add_bytes(args, text, strlen(text));
}

static void set_command(mcp_redis_command_t *command, args_t *args, int expect)
{
    memset(command, 0, sizeof(*command));
    command->argc = args->count;
    command->argv = args->argv;
    command->argvlen = args->len;
    command->expect = expect;
}

static const char *value_key(const char *label, const unsigned char *digest, apr_pool_t *p)
{
    return apr_pstrcat(p, label, ":", mcp_cache_hex(digest, MCP_CACHE_DIGEST, p), NULL);
}

static const char *generation_key(apr_uint64_t tag, apr_pool_t *p)
{
    return apr_psprintf(p, "mcp:gen:%016" APR_UINT64_T_HEX_FMT, tag);
}

static const char *session_key(const unsigned char *digest, apr_pool_t *p)
{
    return apr_pstrcat(p, "mcp:live:", mcp_cache_hex(digest, MCP_CACHE_DIGEST, p), NULL);
}

static apr_status_t run(redis_store_t *s, mcp_redis_command_t *commands, int count,
                        apr_time_t deadline)
{
    apr_time_t before = mcp_clock_now();
    apr_status_t rv = mcp_redis_run(s->o.redis, commands, count, deadline, NULL);

    if (s->o.measured) {
        s->o.measured(s->o.baton, rv, mcp_clock_now() - before);
    }
    return rv;
}

/* Sixteen hex digits, never zero; 0 for anything else. */
static apr_uint64_t read_generation(const redisReply *reply)
{
    char *end;
    apr_uint64_t value;

    if (reply->type != REDIS_REPLY_STRING || reply->len != 16
        || strspn(reply->str, "0123456789abcdef") != 16) {
        return 0;
    }
    value = strtoull(reply->str, &end, 16);
    return value;
}

static apr_uint64_t random_generation(void)
{
    apr_uint64_t value = 0;

    while (!value) {
        apr_generate_random_bytes((unsigned char *)&value, sizeof(value));
    }
    return value;
}

static mcp_cache_session_e read_session(const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_STRING || reply->len != 1) {
        return MCP_CACHE_SESSION_UNKNOWN;
    }
    return *reply->str == 'L' ? MCP_CACHE_SESSION_LIVE : MCP_CACHE_SESSION_ENDED;
}

static void read_value(mcp_cache_query_t *query, int i, const redisReply *value,
                       const redisReply *left, apr_pool_t *p)
{
    query->value[i].p = NULL;
    if (value->type == REDIS_REPLY_STRING && left->type == REDIS_REPLY_INTEGER
        && left->integer > 0) {
        query->value[i].p = apr_pmemdup(p, value->str, (apr_size_t)value->len);
        query->value[i].len = (apr_size_t)value->len;
        query->left[i] = apr_time_from_msec(left->integer);
    }
}

static void ask_for(args_t *args, const mcp_cache_query_t *query, apr_pool_t *p)
{
    int i;

    add(args, "MGET");
    for (i = 0; i < query->count; i++) {
        add(args, value_key(query->label, query->digest[i], p));
    }
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (query->generations.tag[i]) {
            add(args, generation_key(query->generations.tag[i], p));
        }
    }
    if (query->session) {
        add(args, session_key(query->session, p));
    }
}

/* Take the replies apart. Returns 0 where they are not those of the questions. */
static int read_replies(mcp_cache_query_t *query, const mcp_redis_command_t *commands,
                        apr_pool_t *p)
{
    const redisReply *all = commands[0].reply;
    int i, at = query->count;

    if (all->type != REDIS_REPLY_ARRAY || all->elements != (size_t)commands[0].argc - 1) {
        return 0;
    }
    for (i = 0; i < query->count; i++) {
        read_value(query, i, all->element[i], commands[1 + i].reply, p);
    }
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        query->generations.value[i] = 0;
        if (query->generations.tag[i]) {
            query->generations.value[i] = read_generation(all->element[at++]);
        }
    }
    query->session_state = query->session ? read_session(all->element[at])
                                          : MCP_CACHE_SESSION_UNKNOWN;
    return 1;
}

/*
 * Make the generations that are missing. One that another request makes meanwhile is read; one that
 * is no generation (somebody else's key) stays unknown, and nothing that depends on it is served.
 */
static apr_status_t make_missing(redis_store_t *s, mcp_cache_query_t *query, apr_time_t deadline,
                                 apr_pool_t *p)
{
    mcp_redis_command_t commands[MCP_CACHE_TAGS + 1];
    args_t args[MCP_CACHE_TAGS + 1] = {{{NULL}, {0}, 0}};
    mcp_cache_generations_t *g = &query->generations;
    int missing[MCP_CACHE_TAGS], i, n = 0;
    args_t *get;
    apr_status_t rv;

    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (g->tag[i] && !g->value[i]) {
            add(&args[n], "SET");
            add(&args[n], generation_key(g->tag[i], p));
            add(&args[n], apr_psprintf(p, "%016" APR_UINT64_T_HEX_FMT, random_generation()));
            add(&args[n], "EX");
            add(&args[n], GENERATION_LIFE);
            add(&args[n], "NX");
            set_command(&commands[n], &args[n], 0);
            missing[n++] = i;
        }
    }
    if (!n) {
        return APR_SUCCESS;
    }
    get = &args[n];
    add(get, "MGET");
    for (i = 0; i < n; i++) {
        add(get, args[i].argv[1]);
    }
    set_command(&commands[n], get, REDIS_REPLY_ARRAY);
    rv = run(s, commands, n + 1, deadline);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    for (i = 0; i < n && commands[n].reply->elements == (size_t)n; i++) {
        g->value[missing[i]] = read_generation(commands[n].reply->element[i]);
    }
    mcp_redis_free_replies(commands, n + 1);
    return APR_SUCCESS;
}

static apr_status_t redis_lookup(mcp_cache_store_t *store, mcp_cache_query_t *query, apr_pool_t *p)
{
    redis_store_t *s = (redis_store_t *)store;
    apr_time_t deadline = mcp_clock_now() + s->o.timeout;
    mcp_redis_command_t commands[1 + MCP_CACHE_KEYS];
    args_t args[1 + MCP_CACHE_KEYS] = {{{NULL}, {0}, 0}};
    apr_status_t rv;
    int i, understood;

    ask_for(&args[0], query, p);
    set_command(&commands[0], &args[0], REDIS_REPLY_ARRAY);
    for (i = 0; i < query->count; i++) {
        add(&args[1 + i], "PTTL");
        add(&args[1 + i], args[0].argv[1 + i]);
        set_command(&commands[1 + i], &args[1 + i], REDIS_REPLY_INTEGER);
    }
    rv = run(s, commands, 1 + query->count, deadline);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    understood = read_replies(query, commands, p);
    mcp_redis_free_replies(commands, 1 + query->count);
    return understood ? make_missing(s, query, deadline, p) : APR_EGENERAL;
}

/* One command whose reply must be OK; or nil, where the command had a condition. */
static apr_status_t run_set(redis_store_t *s, args_t *args)
{
    mcp_redis_command_t command;
    apr_status_t rv;
    int type;

    set_command(&command, args, 0);
    rv = run(s, &command, 1, mcp_clock_now() + WRITE_TIMEOUT);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    type = command.reply->type;
    mcp_redis_free_replies(&command, 1);
    return type == REDIS_REPLY_STATUS || type == REDIS_REPLY_NIL ? APR_SUCCESS : APR_EGENERAL;
}

static apr_pool_t *scratch(void)
{
    apr_pool_t *p = NULL;

    return apr_pool_create_unmanaged_ex(&p, NULL, NULL) == APR_SUCCESS ? p : NULL;
}

/* Whether the generations are what they were. APR_EEXIST: one has moved. */
static apr_status_t check_generations(redis_store_t *s, const mcp_cache_generations_t *g,
                                      apr_pool_t *p)
{
    mcp_redis_command_t command;
    args_t args = {{NULL}, {0}, 0};
    apr_status_t rv;
    int i, at = 0;

    add(&args, "MGET");
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (g->tag[i]) {
            add(&args, generation_key(g->tag[i], p));
        }
    }
    set_command(&command, &args, REDIS_REPLY_ARRAY);
    rv = run(s, &command, 1, mcp_clock_now() + WRITE_TIMEOUT);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        if (g->tag[i] && ((size_t)at >= command.reply->elements
                          || read_generation(command.reply->element[at++]) != g->value[i])) {
            rv = APR_EEXIST;
        }
    }
    mcp_redis_free_replies(&command, 1);
    return rv;
}

static apr_status_t redis_put(mcp_cache_store_t *store, const mcp_cache_put_t *put)
{
    redis_store_t *s = (redis_store_t *)store;
    apr_pool_t *p = scratch();
    args_t args = {{NULL}, {0}, 0};
    apr_status_t rv;

    if (!p) {
        return APR_ENOMEM;
    }
    add(&args, "SET");
    add(&args, value_key(put->label, put->digest, p));
    add_bytes(&args, put->value.p, put->value.len);
    add(&args, "PX");
    add(&args, apr_psprintf(p, "%" APR_INT64_T_FMT, (apr_int64_t)apr_time_as_msec(put->life)));
    rv = check_generations(s, put->generations, p);
    if (rv == APR_SUCCESS && apr_time_as_msec(put->life) > 0) {
        rv = run_set(s, &args);
    }
    apr_pool_destroy(p);
    return rv;
}

static apr_status_t redis_invalidate(mcp_cache_store_t *store, apr_uint64_t tag)
{
    apr_pool_t *p = scratch();
    args_t args = {{NULL}, {0}, 0};
    apr_status_t rv;

    if (!p) {
        return APR_ENOMEM;
    }
    add(&args, "SET");
    add(&args, generation_key(tag, p));
    add(&args, apr_psprintf(p, "%016" APR_UINT64_T_HEX_FMT, random_generation()));
    add(&args, "EX");
    add(&args, GENERATION_LIFE);
    rv = run_set((redis_store_t *)store, &args);
    apr_pool_destroy(p);
    return rv;
}

static apr_status_t redis_session(mcp_cache_store_t *store,
                                  const unsigned char digest[MCP_CACHE_DIGEST],
                                  mcp_cache_session_e state)
{
    int ended = state == MCP_CACHE_SESSION_ENDED;
    apr_pool_t *p = scratch();
    args_t args = {{NULL}, {0}, 0};
    apr_status_t rv;

    if (!p) {
        return APR_ENOMEM;
    }
    add(&args, "SET");
    add(&args, session_key(digest, p));
    add(&args, ended ? "E" : "L");
    add(&args, "PX");
    add(&args, apr_psprintf(p, "%" APR_INT64_T_FMT, (apr_int64_t)apr_time_as_msec(
        ended ? MCP_CACHE_SESSION_ENDED_LIFE : MCP_CACHE_SESSION_LIFE)));
    if (!ended) {
        add(&args, "NX"); /* an ended one stays ended */
    }
    rv = run_set((redis_store_t *)store, &args);
    apr_pool_destroy(p);
    return rv;
}

mcp_cache_store_t *mcp_cache_redis_store(const mcp_cache_redis_options_t *options, apr_pool_t *p)
{
    static const mcp_cache_store_class_t class = {"redis", redis_lookup, redis_put,
                                                  redis_invalidate, redis_session};
    redis_store_t *store = apr_palloc(p, sizeof(*store));

    store->store.class = &class;
    store->o = *options;
    return &store->store;
}
