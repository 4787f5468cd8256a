/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of a request: where the id stands, whose it is, and which member has it. The table holds
 * digests; this is the only file that makes them.
 */
#include "mcp_proxy.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <openssl/sha.h>

#include "mcp_clock.h"
#include "mcp_httpd_request.h"

/* Entries looked at for each session that is learnt: the table never keeps many dead ones. */
#define SWEEP 8

static int hex_value(char c)
{
    return apr_isdigit(c) ? c - '0' : apr_tolower(c) - 'a' + 10;
}

/* %XX decoded once; anything else as it is, so that equal text means an equal id. */
static char *decoded(apr_pool_t *p, const char *text, apr_size_t len)
{
    char *out = apr_palloc(p, len + 1), *to = out;
    apr_size_t i;

    for (i = 0; i < len; i++) {
        if (text[i] == '%' && i + 2 < len && apr_isxdigit(text[i + 1])
            && apr_isxdigit(text[i + 2])) {
            char c = (char)(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));

            *to++ = c ? c : '%';
            i += 2;
        }
        else {
            *to++ = text[i];
        }
    }
    *to = '\0';
    return out;
}

static int is_query_name(const char *name)
{
    static const char *const names[] = { "session_id", "sessionId", "sessionid", NULL };
    int i;

    for (i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* The next id in a query, *query moved behind it; NULL: no more. A name may be encoded, too. */
static const char *next_in_query(apr_pool_t *p, const char **query)
{
    while (*query && **query) {
        const char *at = *query;
        apr_size_t len = strcspn(at, "&;");
        const char *eq = memchr(at, '=', len);

        *query += len;
        *query += **query != '\0';
        if (eq && eq + 1 < at + len && is_query_name(decoded(p, at, (apr_size_t)(eq - at)))) {
            return decoded(p, eq + 1, len - (apr_size_t)(eq + 1 - at));
        }
    }
    return NULL;
}

static const char *session_in_query(apr_pool_t *p, const char *query)
{
    return next_in_query(p, &query);
}

/*
 * The last segment of a path. Behind message or messages it is an id by the custom of HTTP+SSE
 * servers; elsewhere it only is one if the table says so.
 */
static const char *session_in_path(apr_pool_t *p, const char *path, int *is_guess)
{
    apr_size_t len = strlen(path);
    const char *last, *parent;

    while (len > 1 && path[len - 1] == '/') {
        len--;
    }
    for (last = path + len; last > path && last[-1] != '/'; last--);
    if (last == path || last == path + len) {
        return NULL;
    }
    for (parent = last - 1; parent > path && parent[-1] != '/'; parent--);
    *is_guess = strncmp(parent, "message/", 8) != 0 && strncmp(parent, "messages/", 9) != 0;
    return decoded(p, last, len - (apr_size_t)(last - path));
}

const char *mcp_proxy_endpoint_id(apr_pool_t *p, const char *path, const char *query,
                                  int *is_guess)
{
    const char *id = session_in_query(p, query);

    *is_guess = 0;
    return id ? id : session_in_path(p, path, is_guess);
}

void mcp_proxy_find_session_id(request_rec *r, mcp_proxy_request_t *q)
{
    const char *id = apr_table_get(r->headers_in, "Mcp-Session-Id");

    /* 2026-07-28 has no sessions: what a client sends all the same is ignored. */
    if (mcp_request_is_stateless(r)) {
        return;
    }
    if (!id || !*id) {
        id = session_in_query(r->pool, r->args);
    }
    if (!id && r->method_number == M_POST && r->parsed_uri.path) {
        id = session_in_path(r->pool, r->parsed_uri.path, &q->session_is_guess);
    }
    q->session = id;
}

/* A segment that looks like a word is a path and no id: everybody has the same one. */
int mcp_proxy_may_be_id(const char *segment)
{
    return strlen(segment) >= 8 && strpbrk(segment, "0123456789") != NULL;
}

static void make_key(request_rec *r, mcp_session_key_t *key, const char *scope, const char *id)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    const char *identity = mcp_request_identity(r);
    apr_size_t scope_len = strlen(scope) + 1, id_len = strlen(id);
    char *text = apr_palloc(r->pool, scope_len + id_len);

    memcpy(text, scope, scope_len);
    memcpy(text + scope_len, id, id_len);
    SHA256((unsigned char *)text, scope_len + id_len, digest);
    memcpy(key->id, digest, sizeof(key->id));
    identity = identity ? identity : "";
    SHA256((const unsigned char *)identity, strlen(identity), digest);
    memcpy(key->owner, digest, sizeof(key->owner));
}

static int is_foreign(request_rec *r, const char *scope, const char *id)
{
    mcp_session_key_t key;
    apr_uint64_t member;

    make_key(r, &key, scope, id);
    return mcp_session_find(mcp_proxy_sessions(), &key, mcp_clock_now(), &member) == APR_EACCES;
}

static int names_foreign_path(request_rec *r, const mcp_proxy_request_t *q, const char *path)
{
    int is_guess = 0;
    const char *id = path ? session_in_path(r->pool, path, &is_guess) : NULL;

    return id && (!is_guess || mcp_proxy_may_be_id(id)) && (!q->session || strcmp(id, q->session))
        && is_foreign(r, q->scope, id);
}

/*
 * The gateway goes by one id, the backend may go by another that stands in the same request: in
 * another place, behind it, or in a header that this protocol version has not. None of them may be
 * somebody else's.
 */
static int names_foreign_session(request_rec *r, const mcp_proxy_request_t *q)
{
    const char *header = apr_table_get(r->headers_in, "Mcp-Session-Id");
    const char *query = r->args, *id;

    if (header && *header && header != q->session && is_foreign(r, q->scope, header)) {
        return 1;
    }
    while ((id = next_in_query(r->pool, &query)) != NULL) {
        if ((!q->session || strcmp(id, q->session)) && is_foreign(r, q->scope, id)) {
            return 1;
        }
    }
    return names_foreign_path(r, q, r->parsed_uri.path) || names_foreign_path(r, q, r->uri);
}

apr_status_t mcp_proxy_look_up(request_rec *r, mcp_proxy_request_t *q, const char *scope)
{
    apr_status_t rv;

    q->scope = scope;
    if (names_foreign_session(r, q)) {
        return APR_EACCES;
    }
    if (!q->session) {
        return APR_NOTFOUND;
    }
    make_key(r, &q->key, scope, q->session);
    q->looked_up = 1;
    rv = mcp_session_find(mcp_proxy_sessions(), &q->key, mcp_clock_now(), &q->member);
    q->session_known = rv == APR_SUCCESS;
    if (rv != APR_SUCCESS && q->session_is_guess) {
        q->session = NULL;
        q->looked_up = 0;
        return APR_NOTFOUND;
    }
    return rv;
}

apr_uint64_t mcp_proxy_member_hash(const proxy_worker *worker)
{
    return (apr_uint64_t)worker->s->hash.def << 32 | worker->s->hash.fnv;
}

void mcp_proxy_learn(request_rec *r, mcp_proxy_request_t *q, const char *id,
                     const proxy_worker *worker)
{
    apr_status_t rv;

    make_key(r, &q->key, q->scope, id);
    q->session = id;
    q->session_is_guess = 0;
    q->looked_up = q->session_known = 1;
    q->member = mcp_proxy_member_hash(worker);
    mcp_session_sweep(mcp_proxy_sessions(), mcp_clock_now(), SWEEP);
    rv = mcp_session_learn(mcp_proxy_sessions(), &q->key, q->member, mcp_clock_now());
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, rv, r, MCP_LOGNO(2020)
                      "the session table is full of sessions with open streams: a new session "
                      "could not be learnt; raise MCPProxySessionStore shm:%u",
                      mcp_proxy_session_entries());
    }
}

void mcp_proxy_forget(mcp_proxy_request_t *q)
{
    if (q->looked_up) {
        mcp_session_forget(mcp_proxy_sessions(), &q->key);
    }
}
