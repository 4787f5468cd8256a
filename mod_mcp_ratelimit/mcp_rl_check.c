/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hooks of a request. Its questions are gathered first and asked together, so that one round
 * trip decides all of them. A request is decided once, however often its phases run: mod_mcp_proxy
 * runs them again when a body was slow. An internal redirect starts a new record for the same
 * request: there it is asked for the limits that it has not been asked for yet.
 */
#include "mcp_rl_check.h"

#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <http_ssl.h>

#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_rl_message.h"

/* Read of a message that is refused before authentication, to answer with its id. */
#define MAX_REFUSED (64 * 1024)

mcp_rl_process_t *mcp_rl_process;

/* The questions of one request, and room for what is said to them. */
typedef struct asks_t {
    int count;
    int room;
    mcp_rl_ask_t *ask;
    mcp_rl_outcome_t outcome;
} asks_t;

mcp_rl_request_t *mcp_rl_request_find(request_rec *r)
{
    for (; r; r = r->prev) {
        mcp_rl_request_t *q = ap_get_module_config(r->request_config, &mcp_ratelimit_module);

        if (q) {
            return q;
        }
    }
    return NULL;
}

mcp_rl_request_t *mcp_rl_request_get(request_rec *r)
{
    mcp_rl_request_t *q = mcp_rl_request_find(r);

    if (!q) {
        q = apr_pcalloc(r->pool, sizeof(*q));
        q->r = r;
        ap_set_module_config(r->request_config, &mcp_ratelimit_module, q);
    }
    return q;
}

static mcp_rl_policy_e policy_of(const mcp_rl_dir_t *dir)
{
    return (mcp_rl_policy_e)mcp_conf_number(dir->values, MCP_RL_ON_ERROR);
}

static int is_dry_run(const mcp_rl_dir_t *dir)
{
    return (int)mcp_conf_number(dir->values, MCP_RL_DRY_RUN);
}

/* What @a dir can make us ask: far less, mostly, than may be asked. */
static int room_for(const mcp_rl_dir_t *dir)
{
    return MCP_RL_ADDRESS + 1 + (dir->tools ? dir->tools->nelts : 0);
}

static void make_room(asks_t *asks, request_rec *r, int room)
{
    asks->count = 0;
    asks->room = room < MCP_RL_MAX_ASKS ? room : MCP_RL_MAX_ASKS;
    asks->ask = apr_palloc(r->pool, (apr_size_t)asks->room
                                        * (sizeof(*asks->ask) + sizeof(*asks->outcome.verdicts)));
    asks->outcome.verdicts = (mcp_rl_verdict_t *)&asks->ask[asks->room];
}

static void ask_store(asks_t *asks, mcp_rl_policy_e policy, mcp_rl_row_t **row)
{
    mcp_rl_store_decide(&mcp_rl_process->store, asks->ask, asks->count, policy, row,
                        &asks->outcome);
}

static void add_ask(asks_t *asks, request_rec *r, const mcp_rl_rule_t *rule, const char *who,
                    mcp_rl_mode_e mode, apr_int64_t cost)
{
    mcp_rl_ask_t *ask = &asks->ask[asks->count++];

    memset(ask, 0, sizeof(*ask));
    ask->rule = rule;
    ask->mode = mode;
    ask->cost = cost;
    mcp_rl_name(r, ask, who);
}

static int has_authorization(const request_rec *r)
{
    return apr_table_get(r->headers_in, "Authorization")
        || apr_table_get(r->headers_in, "Proxy-Authorization");
}

static int has_client_certificate(request_rec *r)
{
    const char *verified = ap_ssl_conn_is_ssl(r->connection)
        ? ap_ssl_var_lookup(r->pool, r->server, r->connection, r, "SSL_CLIENT_VERIFY") : NULL;

    return verified && strcmp(verified, "SUCCESS") == 0;
}

/* Nothing in the request could authenticate it, so what comes of it here is known. */
static int is_surely_anonymous(request_rec *r)
{
    const char *type = ap_auth_type(r);

    return type && strcasecmp(type, "none") != 0 && !r->user && !has_authorization(r)
        && !apr_table_get(r->headers_in, "Cookie")
        && !has_client_certificate(r);
}

/* Once a request and limit: the store may be away in two phases. */
static void log_dry_run(request_rec *r, mcp_rl_limit_e limit, const char *key)
{
    const char *name = mcp_rl_limit_name(limit);
    const char *said = apr_table_get(r->subprocess_env, "MCP_LIMIT_DRYRUN");

    if (said && strcmp(said, name) == 0) {
        return;
    }
    mcp_rl_count(mcp_rl_process->store.counters, limit, MCP_RL_WOULD_REFUSE);
    apr_table_setn(r->subprocess_env, "MCP_LIMIT_DRYRUN", name);
    ap_log_rerror(APLOG_MARK, APLOG_WARNING, 0, r, MCP_LOGNO(3010)
                  "dry run: would be refused by limit %s of %s", name, key);
}

/* The address has asked and may go on. */
static void note_address(mcp_rl_request_t *q, const asks_t *asks)
{
    if (!q->address_charged) {
        return;
    }
    mcp_rl_count(mcp_rl_process->store.counters, MCP_RL_ADDRESS, MCP_RL_ALLOWED);
    if (!asks->outcome.is_down) {
        q->address = asks->ask;
        q->address_verdict = asks->outcome.verdicts;
    }
}

/* Refuse before authentication. The answer has the message's id if the message is there. */
static int refuse_address(mcp_rl_request_t *q, const asks_t *asks)
{
    if (mcp_request_read_ready(q->r, MAX_REFUSED) == AP_FILTER_ERROR) {
        return AP_FILTER_ERROR;
    }
    return asks->outcome.is_closed ? mcp_rl_refuse_closed(q)
                                   : mcp_rl_refuse(q, asks->ask, &asks->outcome);
}

int mcp_rl_check_address(request_rec *r)
{
    const mcp_rl_dir_t *dir = mcp_rl_dir(r);
    const mcp_rl_rule_t *rule = mcp_rl_rule(dir, MCP_RL_ADDRESS);
    mcp_rl_request_t *q;
    asks_t asks;

    if (!rule || r->method_number == M_OPTIONS || !mcp_rl_process || mcp_rl_request_find(r)) {
        return DECLINED;
    }
    q = mcp_rl_request_get(r);
    make_room(&asks, r, 1);
    add_ask(&asks, r, rule, NULL, MCP_RL_TAKE, 1);
    if (is_surely_anonymous(r)) {
        ask_store(&asks, policy_of(dir), NULL);
        q->address_charged = 1;
    }
    else if (!mcp_rl_process->store.redis) {
        asks.ask[0].mode = MCP_RL_LOOK;
        ask_store(&asks, policy_of(dir), NULL);
    }
    /* With Redis only what this machine knows: the trip is made once, when all is known. */
    else if (!mcp_rl_store_is_denied(&mcp_rl_process->store, asks.ask, 1, &asks.outcome)) {
        return DECLINED;
    }
    if (!asks.outcome.is_closed && asks.outcome.refused_by < 0) {
        note_address(q, &asks);
        return DECLINED;
    }
    if (is_dry_run(dir)) {
        log_dry_run(r, asks.outcome.is_closed ? MCP_RL_STORE : MCP_RL_ADDRESS, asks.ask->key);
        q->address_charged = 1;
        return DECLINED;
    }
    return refuse_address(q, &asks);
}

static int is_on_its_worker(const request_rec *r)
{
    apr_thread_t *self = ap_thread_current();

    return self && r->connection->current_thread == self;
}

void mcp_rl_charge_401(request_rec *r)
{
    const mcp_rl_rule_t *rule = mcp_rl_rule(mcp_rl_dir(r), MCP_RL_ADDRESS);
    mcp_rl_request_t *q = mcp_rl_request_find(r);
    asks_t asks;

    if (!rule || !q || q->address_charged || !mcp_rl_process) {
        return;
    }
    q->address_charged = 1;
    make_room(&asks, r, 1);
    add_ask(&asks, r, rule, NULL, MCP_RL_RECORD, 1);
    if (is_on_its_worker(r) || !mcp_rl_process->store.redis) {
        ask_store(&asks, MCP_RL_LOCAL, NULL);
    }
    else {
        mcp_rl_keeper_record(mcp_rl_process->keeper, asks.ask);
    }
}

void mcp_rl_check_error(request_rec *r)
{
    mcp_rl_request_t *q = mcp_rl_request_find(r);

    /* No stream then; its filters, ours among them, will not see the answer. */
    if (q && q->stream) {
        mcp_rl_keeper_remove(mcp_rl_process->keeper, q->stream);
        q->stream = NULL;
    }
    if (q) {
        mcp_rl_say(q, r->err_headers_out);
    }
    if (r->status == HTTP_UNAUTHORIZED) {
        mcp_rl_charge_401(r);
    }
}

int mcp_rl_check_log(request_rec *r)
{
    mcp_rl_request_t *q = ap_get_module_config(r->request_config, &mcp_ratelimit_module);
    request_rec *last = r;

    while (last->next) {
        last = last->next;
    }
    if (q && last->status == HTTP_UNAUTHORIZED) {
        mcp_rl_charge_401(r);
    }
    return DECLINED;
}

static int is_among(const apr_array_header_t *tools, const mcp_rl_rule_t *rule)
{
    int i;

    for (i = 0; tools && i < tools->nelts; i++) {
        if (APR_ARRAY_IDX(tools, i, const mcp_rl_rule_t *) == rule) {
            return 1;
        }
    }
    return 0;
}

/* A batch may meet more limits than can be asked about at once: it does not pass any unasked. */
static int ask_for_tools(asks_t *asks, mcp_rl_request_t *q, const mcp_rl_dir_t *dir,
                         const char *who, const mcp_rpc_t *rpc)
{
    int i;

    for (i = 0; rpc && dir->tools && i < dir->tools->nelts; i++) {
        const mcp_rl_rule_t *rule = APR_ARRAY_IDX(dir->tools, i, const mcp_rl_rule_t *);
        apr_int64_t count = rule->amount > 0 ? mcp_rl_message_calls(rpc, rule->pattern) : 0;

        if (!count || is_among(q->tools, rule)) {
            continue;
        }
        /* One place is left for the slot. */
        if (asks->count >= asks->room - 1) {
            return mcp_error_set(q->r, HTTP_BAD_REQUEST, MCP_RPC_EINVALID,
                                 "Too many different limits of tools in one message", NULL);
        }
        add_ask(asks, q->r, rule, who, MCP_RL_TAKE, count);
    }
    if (rpc && dir->tools) {
        q->tools = q->tools ? apr_array_append(q->r->pool, q->tools, dir->tools) : dir->tools;
    }
    return OK;
}

/* NULL: there is no such limit here, or it has been asked for before an internal redirect. */
static const mcp_rl_rule_t *rule_to_ask(const mcp_rl_request_t *q, const mcp_rl_dir_t *dir,
                                        mcp_rl_limit_e limit)
{
    return q->asked & 1U << limit ? NULL : mcp_rl_rule(dir, limit);
}

static int gather(asks_t *asks, mcp_rl_request_t *q, const mcp_rl_dir_t *dir,
                  const mcp_rpc_t *rpc)
{
    request_rec *r = q->r;
    const mcp_rl_rule_t *rule;
    const char *who = mcp_rl_who(r, dir);
    int i, status;

    if ((rule = rule_to_ask(q, dir, MCP_RL_ADDRESS)) != NULL && !q->address_charged) {
        int counts = !r->user && !has_authorization(r);

        add_ask(asks, r, rule, who, counts ? MCP_RL_TAKE : MCP_RL_LOOK, 1);
        q->address_charged = counts;
    }
    if ((rule = rule_to_ask(q, dir, MCP_RL_WINDOW)) != NULL) {
        add_ask(asks, r, rule, who, MCP_RL_TAKE, mcp_rl_message_count(rpc));
    }
    if ((rule = rule_to_ask(q, dir, MCP_RL_MESSAGES)) != NULL && r->method_number == M_POST) {
        add_ask(asks, r, rule, who, MCP_RL_TAKE, mcp_rl_message_count(rpc));
    }
    status = ask_for_tools(asks, q, dir, who, rpc);
    if (status != OK) {
        return status;
    }
    if ((rule = rule_to_ask(q, dir, MCP_RL_STREAMS)) != NULL && mcp_rl_message_stands(r, rpc)) {
        add_ask(asks, r, rule, who, MCP_RL_TAKE, 1);
    }
    for (i = 0; i < asks->count; i++) {
        q->asked |= 1U << asks->ask[i].rule->limit;
    }
    return OK;
}

/* The request's end, however it comes: on a worker, on an event loop, at the child's exit. */
static apr_status_t end_stream(void *data)
{
    mcp_rl_request_t *q = data;

    if (q->stream) {
        mcp_rl_keeper_remove(mcp_rl_process->keeper, q->stream);
        q->stream = NULL;
    }
    return APR_SUCCESS;
}

/* HTTP/2: the master's thread marks what belongs to a stream that was reset. */
static int is_aborted(void *data)
{
    return ((conn_rec *)data)->aborted;
}

static void keep_stream(mcp_rl_request_t *q, mcp_rl_row_t *row, const mcp_rl_rule_t *rule,
                        mcp_rl_policy_e policy)
{
    request_rec *r = q->r;
    mcp_rl_stream_t *stream = apr_pcalloc(r->pool, sizeof(*stream));
    apr_os_sock_t fd;

    stream->row = row;
    stream->rule = rule;
    stream->policy = policy;
    stream->fd = -1;
    /* An HTTP/2 stream does not own its connection; there the filter ends it. */
    if (!r->connection->master
        && apr_os_sock_get(&fd, ap_get_conn_socket(r->connection)) == APR_SUCCESS) {
        stream->fd = fd;
    }
    else {
        stream->is_gone = is_aborted;
        stream->baton = r->connection;
    }
    mcp_rl_keeper_add(mcp_rl_process->keeper, stream);
    q->stream = stream;
}

static void tell_nearest(mcp_rl_request_t *q, const asks_t *asks)
{
    const mcp_rl_ask_t *ask = q->address;
    const mcp_rl_verdict_t *nearest = q->address_verdict, *verdicts = asks->outcome.verdicts;
    int i;

    for (i = 0; i < asks->count; i++) {
        if (asks->ask[i].mode == MCP_RL_TAKE
            && (!nearest || verdicts[i].remaining < nearest->remaining)) {
            ask = &asks->ask[i];
            nearest = &verdicts[i];
        }
    }
    if (nearest && (!q->lines || nearest->remaining < q->told)) {
        q->told = nearest->remaining;
        mcp_rl_tell(q, ask, nearest);
    }
}

/* The log knows of it, and what passes on the way back is looked at. */
static int admit(mcp_rl_request_t *q, const mcp_rl_dir_t *dir)
{
    apr_table_setn(q->r->subprocess_env, "MCP_LIMIT", "allowed");
    if (!q->filtered && (q->stream || q->lines || mcp_rl_rule(dir, MCP_RL_ADDRESS))) {
        mcp_rl_filter_add(q);
    }
    return DECLINED;
}

static int decide(mcp_rl_request_t *q, const mcp_rl_dir_t *dir, asks_t *asks)
{
    mcp_rl_policy_e policy = policy_of(dir);
    mcp_rl_counters_t *counters = mcp_rl_process->store.counters;
    const mcp_rl_outcome_t *outcome = &asks->outcome;
    request_rec *r = q->r;
    mcp_rl_row_t *row = NULL;
    int i;

    /* Before the slot is taken: whatever happens from here on, it is given back. */
    if (asks->ask[asks->count - 1].rule->kind == MCP_RL_SLOTS) {
        apr_pool_cleanup_register(r->pool, q, end_stream, apr_pool_cleanup_null);
    }
    ask_store(asks, policy, &row);
    if (row) {
        keep_stream(q, row, asks->ask[asks->count - 1].rule, policy);
    }
    if (outcome->is_closed && !is_dry_run(dir)) {
        return mcp_rl_refuse_closed(q);
    }
    if (outcome->refused_by >= 0 && !is_dry_run(dir)) {
        return mcp_rl_refuse(q, asks->ask, outcome);
    }
    if (outcome->is_closed) {
        log_dry_run(r, MCP_RL_STORE, asks->ask[0].key);
    }
    else if (outcome->refused_by >= 0) {
        log_dry_run(r, asks->ask[outcome->refused_by].rule->limit,
                    asks->ask[outcome->refused_by].key);
    }
    else {
        for (i = 0; i < asks->count; i++) {
            mcp_rl_count(counters, asks->ask[i].rule->limit, MCP_RL_ALLOWED);
        }
        if (!outcome->is_down) {
            tell_nearest(q, asks);
        }
    }
    return admit(q, dir);
}

static int is_limited(const mcp_rl_dir_t *dir)
{
    int i;

    for (i = 0; i <= MCP_RL_ADDRESS; i++) {
        if (mcp_rl_rule(dir, (mcp_rl_limit_e)i)) {
            return 1;
        }
    }
    return dir->tools && dir->tools->nelts;
}

/* The request goes on as another record: what has been decided holds, the filters are lost. */
static void follow(mcp_rl_request_t *q, request_rec *r)
{
    static const char *const names[] = { "MCP_LIMIT", "MCP_LIMIT_DRYRUN", NULL };
    const char *value;
    int i;

    for (i = 0; names[i]; i++) {
        if ((value = apr_table_get(q->r->subprocess_env, names[i])) != NULL) {
            apr_table_setn(r->subprocess_env, names[i], value);
        }
    }
    q->r = r;
    q->decided = q->head_seen = q->filtered = 0;
    if (q->stream || q->lines) {
        mcp_rl_filter_add(q);
    }
}

int mcp_rl_check_request(request_rec *r)
{
    const mcp_rl_dir_t *dir = mcp_rl_dir(r);
    mcp_rl_request_t *q;
    const mcp_rpc_t *rpc;
    asks_t asks;
    int status;

    if (r->main || r->method_number == M_OPTIONS || !mcp_rl_process) {
        return DECLINED;
    }
    q = r->prev ? mcp_rl_request_find(r) : NULL;
    if (q && q->r != r) {
        follow(q, r);
    }
    if (!dir->configured || !is_limited(dir)) {
        return DECLINED;
    }
    q = q ? q : mcp_rl_request_get(r);
    if (q->decided) {
        return DECLINED;
    }
    status = mcp_rl_message_read(r, dir, &rpc);
    if (status != OK) {
        return status == AP_FILTER_ERROR ? status : mcp_error_send(r, status);
    }
    q->decided = 1;
    make_room(&asks, r, room_for(dir));
    status = gather(&asks, q, dir, rpc);
    if (status != OK) {
        return mcp_error_send(r, status);
    }
    if (asks.count) {
        return decide(q, dir, &asks);
    }
    if (!q->address_charged || q->asked) {
        return DECLINED;
    }
    tell_nearest(q, &asks);
    return admit(q, dir);
}
