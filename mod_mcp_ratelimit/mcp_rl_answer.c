/* SPDX-License-Identifier: Apache-2.0 */
/* What clients and the store are told: keys, headers, refusals. */
#include "mcp_rl_check.h"

#include <apr_strings.h>
#include <http_log.h>

#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_sha256.h"
#include "mcp_value.h"

#define LONGEST_PLAIN_KEY 128
#define HTTP_TOO_MANY 429

/* A long key becomes a digest; "h:" cannot be the start of an encoded one. */
static const char *shorten(apr_pool_t *p, const char *key)
{
    unsigned char digest[MCP_SHA256];
    char *text;
    int i;

    if (strlen(key) <= LONGEST_PLAIN_KEY) {
        return key;
    }
    mcp_sha256(key, strlen(key), digest);
    text = apr_palloc(p, 2 + 2 * sizeof(digest) + 1);
    strcpy(text, "h:");
    for (i = 0; i < (int)sizeof(digest); i++) {
        apr_snprintf(text + 2 + 2 * i, 3, "%02x", digest[i]);
    }
    return text;
}

const char *mcp_rl_who(request_rec *r, const mcp_rl_dir_t *dir)
{
    const char *who = NULL, *error = NULL;

    if (dir->key) {
        who = dir->key_header ? apr_table_get(r->headers_in, dir->key_header)
                              : ap_expr_str_exec(r, dir->key, &error);
        if (error) {
            ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, MCP_LOGNO(3020)
                          "MCPRateLimitKey cannot be evaluated: %s", error);
            who = NULL;
        }
        if (who && *who) {
            return shorten(r->pool, mcp_value_escape(who, strlen(who), r->pool));
        }
    }
    who = mcp_request_identity(r);
    return who ? shorten(r->pool, who) : mcp_request_address(r);
}

static const char *store_key(request_rec *r, const mcp_rl_rule_t *rule, const char *who)
{
    switch (rule->limit) {
    case MCP_RL_STREAMS:
        return apr_pstrcat(r->pool, "mcp_sse:", who, ":connections", NULL);
    case MCP_RL_MESSAGES:
        return apr_pstrcat(r->pool, "mcp_msg:", who, NULL);
    case MCP_RL_ADDRESS:
        who = mcp_request_address(r);
        return apr_pstrcat(r->pool, "mcp-ip-rl:", strncmp(who, "ip:", 3) ? who : who + 3, NULL);
    case MCP_RL_TOOL:
        /* The prefix stays: it is what a Redis user may touch. */
        return apr_pstrcat(r->pool, "mcp_tool:",
                           shorten(r->pool, apr_pstrcat(r->pool, who, ":", rule->tag, NULL)), NULL);
    default:
        return apr_pstrcat(r->pool, rule->kind == MCP_RL_SLIDING ? "mcp-rls:" : "mcp-rl:", who,
                           NULL);
    }
}

/* The key of a limit that this connection asked about last. Mostly it is one user's. */
typedef struct known_t {
    char key[LONGEST_PLAIN_KEY];
    unsigned char digest[MCP_RL_DIGEST];
} known_t;

typedef struct known_keys_t {
    known_t *of[MCP_RL_LIMITS];
} known_keys_t;

static known_t *known_key(conn_rec *c, mcp_rl_limit_e limit)
{
    known_keys_t *known = ap_get_module_config(c->conn_config, &mcp_ratelimit_module);

    if (!known) {
        known = apr_pcalloc(c->pool, sizeof(*known));
        ap_set_module_config(c->conn_config, &mcp_ratelimit_module, known);
    }
    if (!known->of[limit]) {
        known->of[limit] = apr_pcalloc(c->pool, sizeof(known_t));
    }
    return known->of[limit];
}

void mcp_rl_name(request_rec *r, mcp_rl_ask_t *ask, const char *who)
{
    known_t *known;
    apr_size_t len;

    ask->key = store_key(r, ask->rule, who);
    len = strlen(ask->key);
    /* A stream of HTTP/2 has no connection that lasts. */
    if (r->connection->master || len >= LONGEST_PLAIN_KEY) {
        mcp_rl_digest(ask->key, ask->digest);
        return;
    }
    known = known_key(r->connection, ask->rule->limit);
    if (memcmp(known->key, ask->key, len + 1) != 0) {
        memcpy(known->key, ask->key, len + 1);
        mcp_rl_digest(ask->key, known->digest);
    }
    memcpy(ask->digest, known->digest, MCP_RL_DIGEST);
}

static apr_int64_t seconds(apr_interval_time_t t)
{
    return (t + APR_USEC_PER_SEC - 1) / APR_USEC_PER_SEC;
}

/* Times in which tokens come have some millionths more than that, for rounding. */
static apr_int64_t seconds_of_reset(apr_time_t t)
{
    return t > 1000 ? seconds(t - 1000) : seconds(t);
}

/* Every answer has such numbers; printf() would take most of the time of making them. */
static const char *decimal(apr_pool_t *p, apr_int64_t number)
{
    char *text = apr_palloc(p, MCP_VALUE_DECIMAL);

    mcp_value_decimal(text, number);
    return text;
}

static void set(mcp_rl_request_t *q, const char *name, const char *value)
{
    q->line[q->lines].name = name;
    q->line[q->lines++].value = value;
}

void mcp_rl_say(const mcp_rl_request_t *q, apr_table_t *headers)
{
    int i;

    /* Not set one by one: each would be compared with those before it, which begin alike. */
    for (i = 0; i < q->lines; i++) {
        apr_table_unset(headers, q->line[i].name);
    }
    for (i = 0; i < q->lines; i++) {
        apr_table_addn(headers, q->line[i].name, q->line[i].value);
    }
}

void mcp_rl_tell(mcp_rl_request_t *q, const mcp_rl_ask_t *ask, const mcp_rl_verdict_t *verdict)
{
    apr_pool_t *p = q->r->pool;
    const mcp_rl_rule_t *rule = ask->rule;
    apr_int64_t remaining = verdict->allowed ? verdict->remaining : 0;
    apr_int64_t reset = seconds_of_reset(verdict->reset);
    const char *name = mcp_rl_limit_name(rule->limit);

    q->lines = 0;
    switch (mcp_conf_number(mcp_rl_dir(q->r)->values, MCP_RL_HEADERS)) {
    case MCP_RL_HEADERS_X:
        set(q, "X-RateLimit-Limit", rule->limit_text);
        set(q, "X-RateLimit-Remaining", decimal(p, remaining));
        set(q, "X-RateLimit-Reset", decimal(p, reset));
        break;
    case MCP_RL_HEADERS_DRAFT:
        set(q, "RateLimit", apr_pstrcat(p, "\"", name, "\";r=", decimal(p, remaining), ";t=",
                                        decimal(p, reset), NULL));
        set(q, "RateLimit-Policy", rule->kind == MCP_RL_SLOTS
            ? apr_pstrcat(p, "\"", name, "\";q=", decimal(p, rule->amount), NULL)
            : apr_pstrcat(p, "\"", name, "\";q=", decimal(p, rule->amount), ";w=",
                          decimal(p, seconds(rule->period)), NULL));
        break;
    default:
        break;
    }
}

/* A batch that is larger than a limit can ever be: no time is long enough. */
static int never_passes(const mcp_rl_ask_t *ask)
{
    return ask->rule->kind != MCP_RL_SLOTS && ask->cost > mcp_rl_rule_capacity(ask->rule);
}

/* Which refusal to tell: of what never passes, else the one to wait for longest. */
static int to_tell(const mcp_rl_ask_t *asks, const mcp_rl_outcome_t *outcome)
{
    int i;

    for (i = 0; i < outcome->count; i++) {
        if (!outcome->verdicts[i].allowed && never_passes(&asks[i])) {
            return i;
        }
    }
    return outcome->refused_by;
}

int mcp_rl_refuse(mcp_rl_request_t *q, const mcp_rl_ask_t *asks, const mcp_rl_outcome_t *outcome)
{
    request_rec *r = q->r;
    apr_pool_t *p = r->pool;
    int which = to_tell(asks, outcome);
    const mcp_rl_ask_t *ask = &asks[which];
    const mcp_rl_verdict_t *verdict = &outcome->verdicts[which];
    const char *name = mcp_rl_limit_name(ask->rule->limit), *wait = "null", *message;

    mcp_rl_count(mcp_rl_process->store.counters, ask->rule->limit, MCP_RL_REFUSED);
    apr_table_setn(r->subprocess_env, "MCP_LIMIT", name);
    mcp_rl_tell(q, ask, verdict);
    if (never_passes(ask)) {
        message = apr_pstrcat(p, "Too many requests: a batch of ", decimal(p, ask->cost),
                              " never passes a limit of ", ask->rule->limit_text, " (",
                              name, "), so split it", NULL);
    }
    else {
        wait = decimal(p, verdict->wait > APR_USEC_PER_SEC ? seconds(verdict->wait) : 1);
        apr_table_setn(r->err_headers_out, "Retry-After", wait);
        message = apr_pstrcat(p, "Too many requests (", name, "): retry in ", wait, " s", NULL);
    }
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r, "refused by limit %s of %s", name, ask->key);
    mcp_error_set(r, HTTP_TOO_MANY, 0, message,
                  apr_pstrcat(p, "{\"error\":\"too_many_requests\",\"limit\":\"", name,
                              "\",\"retryAfter\":", wait, "}", NULL));
    return mcp_error_send(r, HTTP_TOO_MANY);
}

int mcp_rl_refuse_closed(mcp_rl_request_t *q)
{
    request_rec *r = q->r;

    mcp_rl_count(mcp_rl_process->store.counters, MCP_RL_STORE, MCP_RL_REFUSED);
    apr_table_setn(r->subprocess_env, "MCP_LIMIT", mcp_rl_limit_name(MCP_RL_STORE));
    apr_table_setn(r->err_headers_out, "Retry-After", "1");
    mcp_error_set(r, HTTP_SERVICE_UNAVAILABLE, 0, "Limits cannot be checked: retry in 1 s",
                  "{\"error\":\"store_unavailable\",\"limit\":\"store\",\"retryAfter\":1}");
    return mcp_error_send(r, HTTP_SERVICE_UNAVAILABLE);
}
