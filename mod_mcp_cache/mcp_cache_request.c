/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request asks for, and who asks. A request that leaves any doubt is not for the cache: each
 * step here may only turn "ask" into "pass". The identity comes from httpd, a digest of the
 * credential, or a session; never from what the message says of itself.
 */
#include "mcp_cache.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_protocol.h>

#include "mcp_httpd_error.h"
#include "mcp_httpd_peers.h"
#include "mcp_value.h"

/* Standing alone, the module reads a body only up to here; longer ones pass unread. */
#define MAX_BODY (4 * 1024 * 1024)
#define BODY_TIMEOUT apr_time_from_sec(30)

static APR_OPTIONAL_FN_TYPE(mcp_proxy_is_on) *is_on;
static APR_OPTIONAL_FN_TYPE(mcp_proxy_session_lives) *session_lives;

void mcp_cache_find_peers(void)
{
    is_on = APR_RETRIEVE_OPTIONAL_FN(mcp_proxy_is_on);
    session_lives = APR_RETRIEVE_OPTIONAL_FN(mcp_proxy_session_lives);
}

int mcp_cache_session_lives(const mcp_cache_request_t *q)
{
    return session_lives && q->session ? session_lives(q->r) : -1;
}

static int is_active(request_rec *r)
{
    return mcp_cache_is_configured(r->per_dir_config)
        || (is_on && is_on(r) && mcp_cache_conf(r->per_dir_config, MCP_CACHE_HINTS));
}

static int is_too_long(const mcp_request_t *body)
{
    return body->declared < 0 || body->declared > MAX_BODY;
}

static mcp_cache_request_t *record_of(request_rec *r)
{
    mcp_cache_request_t *q = ap_get_module_config(r->request_config, &mcp_cache_module);

    if (!q && !r->main && r->method_number != M_OPTIONS && is_active(r)) {
        q = apr_pcalloc(r->pool, sizeof(*q));
        q->r = r;
        q->body = mcp_request_get(r);
        ap_set_module_config(r->request_config, &mcp_cache_module, q);
    }
    return q;
}

int mcp_cache_fixups(request_rec *r)
{
    mcp_cache_request_t *q = r->method_number == M_POST ? record_of(r) : NULL;
    mcp_request_t *body;
    int status = OK;

    if (!q) {
        return DECLINED;
    }
    body = q->body;
    if (!body->json) {
        return DECLINED;
    }
    if (!body->complete) { /* else another module has read it, or there is none */
        if (is_too_long(body)) {
            return DECLINED;
        }
        status = mcp_request_read(r, MAX_BODY, BODY_TIMEOUT, r->prev == NULL);
        if (status == SUSPENDED || status == AP_FILTER_ERROR) {
            return status;
        }
    }
    if (status == OK && body->length) {
        status = mcp_request_decidable(r);
    }
    return status == OK ? DECLINED : mcp_error_send(r, status);
}

apr_uint64_t mcp_cache_tag(const char *kind, const char *a, const char *b)
{
    apr_uint64_t hash = mcp_cache_hash(kind, strlen(kind), 1);

    hash = a ? mcp_cache_hash(a, strlen(a), hash) : hash;
    hash = b ? mcp_cache_hash(b, strlen(b), hash) : hash;
    return hash ? hash : 1;
}

apr_uint64_t mcp_cache_feed_tag(const char *feed, const char *what)
{
    return mcp_cache_tag("feed", feed, what);
}

static const char *name_of(const server_rec *s)
{
    return s->server_hostname ? s->server_hostname : "";
}

/* Where the request goes: the backend or balancer that mod_proxy has found, else the handler. */
static const char *where_of(request_rec *r)
{
    return apr_psprintf(r->pool, "%s:%d\n%s\n%s\n%s", name_of(r->server), (int)r->server->port,
                        r->uri, r->args ? r->args : "",
                        r->filename && r->proxyreq ? r->filename : r->handler ? r->handler : "");
}

/* Scheme and host of the backend, or the balancer: notifications may come from another path. */
const char *mcp_cache_feed(mcp_cache_request_t *q)
{
    const char *host = q->target ? strstr(q->target, "://") : NULL;

    if (!q->feed) {
        q->feed = !host ? name_of(q->r->server)
            : apr_pstrmemdup(q->r->pool, q->target,
                             (apr_size_t)(host + 3 - q->target) + strcspn(host + 3, "/?"));
    }
    return q->feed;
}

static const char *session_of(request_rec *r)
{
    static const char *const names[] = {"session_id=", "sessionId=", "sessionid=", NULL};
    const char *id = apr_table_get(r->headers_in, "Mcp-Session-Id"), *at;
    int i;

    if (id && *id) {
        return id;
    }
    for (at = r->args; at && *at; at += strcspn(at, "&"), at += *at == '&') {
        for (i = 0; names[i]; i++) {
            if (!strncmp(at, names[i], strlen(names[i]))) {
                return apr_pstrmemdup(r->pool, at, strcspn(at, "&"));
            }
        }
    }
    return NULL;
}

/* A session is one identity's: a mark that somebody else's request left does not count. */
void mcp_cache_digest_session(mcp_cache_request_t *q, const char *session,
                              unsigned char digest[MCP_CACHE_DIGEST])
{
    mcp_cache_key_t key = {0};

    key.where = apr_psprintf(q->r->pool, "%s:%d\n%s\n%s", name_of(q->r->server),
                             (int)q->r->server->port, q->r->uri, mcp_cache_feed(q));
    key.method = key.audience = "session";
    key.caller = mcp_request_identity(q->r);
    key.session = session;
    mcp_cache_key_digest(&key, q->r->pool, digest);
}

int mcp_cache_find_session(mcp_cache_request_t *q)
{
    const char *session = q->session || mcp_request_is_stateless(q->r) ? NULL : session_of(q->r);

    if (session) {
        mcp_cache_digest_session(q, session, q->session_digest);
        q->session = session;
        if (q->ask) {
            q->ask->query.session = q->session_digest;
        }
    }
    return q->session != NULL;
}

/* Who asks, with the kind of proof in front so that no two kinds can name the
 * same. NULL: unknown. */
static const char *caller_of(mcp_cache_request_t *q)
{
    const ap_expr_info_t *expr = q->tool && q->tool->key ? q->tool->key
                                                         : mcp_cache_key_expr(q->r->per_dir_config);
    const char *authorization, *error = NULL, *value;

    if (expr) {
        value = ap_expr_str_exec(q->r, expr, &error);
        return value && *value && !error ? apr_pstrcat(q->r->pool, "key:", value, NULL) : NULL;
    }
    if (q->r->user) {
        return apr_pstrcat(q->r->pool, "user:", mcp_request_identity(q->r), NULL);
    }
    authorization = apr_table_get(q->r->headers_in, "Authorization");
    if (authorization && *authorization) {
        value = mcp_cache_key_hex(authorization, strlen(authorization), q->r->pool);
        return apr_pstrcat(q->r->pool, "authorization:", value, NULL);
    }
    if (q->session) {
        value = mcp_cache_key_hex(q->session, strlen(q->session), q->r->pool);
        return apr_pstrcat(q->r->pool, "session:", value, NULL);
    }
    return NULL;
}

static int has_credentials(request_rec *r)
{
    static const char *const names[] = {"Authorization", "Proxy-Authorization", "Cookie",
                                        "X-API-Key", NULL};
    int i;

    for (i = 0; names[i]; i++) {
        if (apr_table_get(r->headers_in, names[i])) {
            return 1;
        }
    }
    return r->user != NULL;
}

static int add_vary(void *rec, const char *name, const char *value)
{
    apr_array_header_t *lines = rec;

    if (!strcasecmp(name, "Origin") || !strcasecmp(name, "Accept-Language")
        || !strncasecmp(name, "Mcp-Param-", 10)) {
        APR_ARRAY_PUSH(lines, const char *) = name;
        APR_ARRAY_PUSH(lines, const char *) = value;
    }
    return 1;
}

/* Headers that a backend may answer by. A private result of a list belongs to one credential. */
static const char *vary_of(mcp_cache_request_t *q, int is_private)
{
    apr_array_header_t *lines = apr_array_make(q->r->pool, 4, sizeof(const char *));
    const char *authorization = apr_table_get(q->r->headers_in, "Authorization");

    apr_table_do(add_vary, lines, q->r->headers_in, NULL);
    if (q->by_hints && is_private && authorization) {
        APR_ARRAY_PUSH(lines, const char *) = "Authorization";
        APR_ARRAY_PUSH(lines, const char *) = mcp_cache_key_hex(authorization,
                                                                strlen(authorization),
                                                                q->r->pool);
    }
    return lines->nelts ? apr_array_pstrcat(q->r->pool, lines, '\n') : NULL;
}

static int is_hinted_method(const char *method)
{
    static const char *const methods[] = {
        "server/discover", "tools/list", "prompts/list", "resources/list",
        "resources/templates/list", "resources/read", NULL
    };
    int i;

    for (i = 0; methods[i]; i++) {
        if (!strcmp(methods[i], method)) {
            return 1;
        }
    }
    return 0;
}

/* Whether it is a kind of request that may be asked for at all. */
static int find_rule(mcp_cache_request_t *q)
{
    const mcp_rpc_t *rpc = q->rpc;
    request_rec *r = q->r;

    if (rpc->kind != MCP_RPC_REQUEST || rpc->ambiguous || rpc->duplicates
        || rpc->has_input_responses || rpc->has_request_state || rpc->has_task
        || !rpc->id.len) {
        return 0;
    }
    if (!strcmp(rpc->method, "tools/call") && rpc->name) {
        q->tool = mcp_cache_tool(r->per_dir_config, rpc->name);
        q->label = q->tool ? q->tool->label : 0;
        return q->tool && q->tool->ttl > 0;
    }
    q->by_hints = is_hinted_method(rpc->method) && mcp_request_is_stateless(r)
        && mcp_cache_conf(r->per_dir_config, MCP_CACHE_HINTS);
    return q->by_hints;
}

static int has_directive(const char *header, const char *name)
{
    const char *at = header ? ap_strcasestr(header, name) : NULL;

    return at && !apr_isalnum(at[strlen(name)]) && at[strlen(name)] != '-';
}

static const char *what_of(const mcp_rpc_t *rpc)
{
    if (!strncmp(rpc->method, "tools/", 6)) {
        return "tools";
    }
    if (!strncmp(rpc->method, "prompts/", 8)) {
        return "prompts";
    }
    return strcmp(rpc->method, "resources/read") ? "resources" : rpc->uri;
}

static void set_tags(mcp_cache_request_t *q, const char *caller)
{
    apr_uint64_t *tag = q->ask->query.generations.tag;
    const char *what = q->tool ? q->rpc->name : q->rpc->method;
    const char *user = caller ? q->r->user : NULL, *key = caller ? strchr(caller, ':') + 1 : NULL;

    tag[MCP_CACHE_TAG_ALL] = mcp_cache_tag("all", NULL, NULL);
    tag[MCP_CACHE_TAG_TOOL] = mcp_cache_tag("tool", what, NULL);
    if (key) {
        tag[MCP_CACHE_TAG_CALLER] = mcp_cache_tag("user", key, NULL);
        tag[MCP_CACHE_TAG_TOOL_CALLER] = mcp_cache_tag("tool+user", what, key);
    }
    if (user) {
        tag[MCP_CACHE_TAG_USER] = mcp_cache_tag("user", user, NULL);
        tag[MCP_CACHE_TAG_TOOL_USER] = mcp_cache_tag("tool+user", what, user);
    }
    what = what_of(q->rpc);
    if (strcmp(q->rpc->method, "server/discover") && what) {
        tag[MCP_CACHE_TAG_FEED] = mcp_cache_feed_tag(mcp_cache_feed(q), what);
    }
    if (!strcmp(q->rpc->method, "resources/read")) {
        tag[MCP_CACHE_TAG_FEED_ALL] = mcp_cache_feed_tag(mcp_cache_feed(q), "resources");
    }
}

/* mcp:tool:NAME:BACKEND:CALLER, each part of a fixed alphabet without the colon. */
static const char *label_of(mcp_cache_request_t *q, const char *where, const char *caller)
{
    const char *name = q->tool ? q->rpc->name : q->rpc->method;

    return apr_psprintf(q->r->pool, "mcp:%s:%s:%08x:%s", q->tool ? "tool" : "hint",
                        mcp_value_escape(name, strlen(name), q->r->pool),
                        (unsigned)(mcp_cache_hash(where, strlen(where), 2) & 0xffffffffU),
                        caller ? apr_psprintf(q->r->pool, "u%016" APR_UINT64_T_HEX_FMT,
                                              mcp_cache_hash(caller, strlen(caller), 3)) : "p");
}

/* The digests, once everything that goes into them is known. */
static void digest_keys(mcp_cache_request_t *q, mcp_cache_key_t *key, const char *caller)
{
    int shared = q->tool && q->tool->scope == MCP_CACHE_SCOPE_SHARED;
    const char *reads = q->r->user ? "shared:authenticated" : "shared:anybody";
    const char *writes = has_credentials(q->r) ? "shared:authenticated" : "shared:anybody";
    mcp_cache_query_t *query = &q->ask->query;

    key->audience = shared ? reads : "own";
    key->caller = shared ? NULL : caller;
    query->count = 1;
    mcp_cache_key_digest(key, q->r->pool, query->digest[0]);
    memcpy(q->ask->store_digest, query->digest[0], MCP_CACHE_DIGEST);
    q->ask->store_is_readable = 1;
    if (shared && strcmp(reads, writes)) {
        /* Asked with a credential that httpd has not checked: the answer is for the others. */
        q->ask->store_is_readable = 0;
        key->audience = writes;
        mcp_cache_key_digest(key, q->r->pool, q->ask->store_digest);
    } else if (q->by_hints && mcp_cache_conf(q->r->per_dir_config, MCP_CACHE_TRUST_PUBLIC)) {
        q->by_hints = 2;
        key->audience = "public";
        key->vary = vary_of(q, 0);
        key->caller = key->session = NULL;
        query->count = 2;
        mcp_cache_key_digest(key, q->r->pool, query->digest[1]);
    }
}

/* Everything that goes into the key, or 0 where there can be none. */
static int make_key(mcp_cache_request_t *q)
{
    int shared = q->tool && q->tool->scope == MCP_CACHE_SCOPE_SHARED;
    const char *caller = shared ? NULL : caller_of(q);
    const char *header = apr_table_get(q->r->headers_in, "MCP-Protocol-Version");
    mcp_cache_key_t key = {0};

    if (!caller && !shared) {
        return 0;
    }
    key.where = where_of(q->r);
    key.method = q->rpc->method;
    key.version = apr_psprintf(q->r->pool, "%s\n%s", header ? header : "",
                               q->rpc->version ? q->rpc->version : "");
    key.session = q->tool && q->tool->scope == MCP_CACHE_SCOPE_SESSION ? q->session : NULL;
    key.vary = vary_of(q, 1);
    if (mcp_cache_key_params(&key, q->rpc->params, q->r->pool) != APR_SUCCESS) {
        return 0;
    }
    digest_keys(q, &key, caller);
    set_tags(q, caller);
    q->ask->query.label = label_of(q, key.where, caller);
    return 1;
}

/* The cheap questions first: most requests are not for the cache. */
static void judge(mcp_cache_request_t *q)
{
    request_rec *r = q->r;
    const mcp_request_t *body = q->body;
    const char *control;

    if (!body->complete || !body->length || !body->json) {
        return;
    }
    q->rpc = body->rpc ? body->rpc : mcp_request_rpc(r);
    if (!find_rule(q)) {
        return;
    }
    q->ask = apr_pcalloc(r->pool, sizeof(*q->ask));
    control = apr_table_get(r->headers_in, "Cache-Control");
    if (has_directive(control, "no-store")
        || !mcp_cache_accepted(apr_table_get(r->headers_in, "Accept"))) {
        return;
    }
    mcp_cache_find_session(q);
    q->refresh = has_directive(control, "no-cache") || has_directive(control, "max-age=0");
    q->asks = make_key(q);
}

mcp_cache_request_t *mcp_cache_request(request_rec *r)
{
    mcp_cache_request_t *q = record_of(r);

    if (q && !q->judged) {
        q->judged = 1;
        q->target = r->proxyreq ? r->filename : NULL;
        if (r->method_number == M_POST) {
            judge(q);
        }
    }
    return q;
}
