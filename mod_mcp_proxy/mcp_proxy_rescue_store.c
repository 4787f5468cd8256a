/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of sessions in memory that all children share. A claim is a value that only goes where
 * none is; it says which process has it, so that the next one to come sees that its owner was
 * killed, and ends by itself where nobody can see that. What is read under a claim was written
 * before it.
 */
#include "mcp_proxy_rescue_store.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* Room for some that have been rescued, and for tools, too. */
#define SPARE_PART 4
#define TOOL_LIFE apr_time_from_sec(24 * 3600)

apr_size_t mcp_rescue_store_size(unsigned entries)
{
    apr_size_t size = (apr_size_t)entries * MCP_BLOBS_EACH;

    size += size / SPARE_PART;
    return size < 2 * MCP_BLOBS_MIN ? 2 * MCP_BLOBS_MIN : size;
}

static apr_status_t put_near(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                             mcp_record_kind_e kind, mcp_span_t sealed)
{
    unsigned char name[MCP_RECORD_NAME];

    mcp_record_name(session, kind, name);
    return mcp_blobs_put(store->near, name, sealed, store->ttl);
}

/* Encrypted; no bytes: there is none. */
static mcp_span_t get_sealed(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                             mcp_record_kind_e kind, apr_pool_t *p)
{
    unsigned char name[MCP_RECORD_NAME];
    mcp_span_t sealed = { "", 0 };
    apr_interval_time_t left;

    mcp_record_name(session, kind, name);
    mcp_blobs_get(store->near, name, p, &sealed, &left);
    return sealed;
}

static void drop(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                 mcp_record_kind_e kind, const mcp_span_t *only)
{
    unsigned char name[MCP_RECORD_NAME];

    mcp_record_name(session, kind, name);
    mcp_blobs_remove(store->near, name, only);
}

apr_status_t mcp_rescue_remember(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                                 mcp_span_t params, apr_pool_t *p)
{
    mcp_span_t sealed;
    apr_status_t rv;

    if (params.len > MCP_RECORD_MAX_PARAMS) {
        return APR_ENOSPC;
    }
    rv = mcp_record_encrypt(store->keys, session, MCP_RECORD_PARAMS, params, p, &sealed);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    /* A server may give an id out again: what an earlier session had does not hold for this one. */
    drop(store, session, MCP_RECORD_ROUTE, NULL);
    rv = put_near(store, session, MCP_RECORD_PARAMS, sealed);
    if (store->far.redis) {
        mcp_rescue_far_remember(&store->far, session, sealed, store->ttl, p);
    }
    return rv;
}

/* Generation 0: it is none. */
static mcp_record_route_t read_route(const mcp_rescue_store_t *store,
                                     const mcp_session_key_t *session, mcp_span_t sealed,
                                     apr_pool_t *p)
{
    mcp_record_route_t route;
    mcp_span_t plain;

    if (sealed.len
        && mcp_record_decrypt(store->keys, session, MCP_RECORD_ROUTE, sealed, p, &plain)
            == APR_SUCCESS
        && mcp_record_read_route(plain, &route) == APR_SUCCESS) {
        return route;
    }
    return (mcp_record_route_t){ 0, "", "", 0, 0 };
}

void mcp_rescue_prolong(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                        apr_interval_time_t life)
{
    unsigned char name[MCP_RECORD_NAME];

    mcp_record_name(session, MCP_RECORD_PARAMS, name);
    mcp_blobs_prolong(store->near, name, life);
    mcp_record_name(session, MCP_RECORD_ROUTE, name);
    mcp_blobs_prolong(store->near, name, life);
}

apr_status_t mcp_rescue_find_route(const mcp_rescue_store_t *store,
                                   const mcp_session_key_t *session, apr_pool_t *p,
                                   mcp_record_route_t *route)
{
    mcp_rescue_prolong(store, session, store->ttl);
    *route = read_route(store, session, get_sealed(store, session, MCP_RECORD_ROUTE, p), p);
    return route->generation ? APR_SUCCESS : APR_NOTFOUND;
}

/*
 * What the far store has is what counts, and is kept here, too; but for a route that is older than
 * the one here, which was made while that store was away.
 * @return APR_EEXIST: it is to be told
 */
static apr_status_t take_over(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              mcp_span_t params, mcp_span_t route, apr_pool_t *p)
{
    mcp_span_t ours = get_sealed(store, session, MCP_RECORD_ROUTE, p);

    if (params.p) {
        put_near(store, session, MCP_RECORD_PARAMS, params);
    }
    if (read_route(store, session, ours, p).generation
        > read_route(store, session, route, p).generation) {
        return APR_EEXIST;
    }
    if (route.p) {
        put_near(store, session, MCP_RECORD_ROUTE, route);
    }
    return APR_SUCCESS;
}

static apr_status_t claim_far(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              mcp_span_t token, apr_interval_time_t life, apr_pool_t *p)
{
    mcp_span_t params, route;
    apr_status_t rv;

    if (!store->far.redis) {
        return APR_SUCCESS;
    }
    rv = mcp_rescue_far_claim(&store->far, session, token, life, p, &params, &route);
    if (take_over(store, session, params, route, p) == APR_EEXIST && rv == APR_SUCCESS) {
        mcp_rescue_change_t change = { .before = route, .ttl = store->ttl };

        change.after = get_sealed(store, session, MCP_RECORD_ROUTE, p);
        mcp_rescue_far_change(&store->far, session, &change, p);
    }
    /* While it does not answer, each gateway does what it can. */
    return rv == APR_EBUSY ? rv : APR_SUCCESS;
}

static void make_token(char token[MCP_RESCUE_TOKEN])
{
    apr_int32_t pid = (apr_int32_t)getpid();

    RAND_bytes((unsigned char *)token, MCP_RESCUE_TOKEN);
    memcpy(token, &pid, sizeof(pid));
}

/* The claim of a child that was killed is nobody's. @return 1: there was one */
static int bury_claim(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                      const unsigned char name[MCP_RECORD_NAME], apr_pool_t *p)
{
    mcp_rescue_change_t change = { .ttl = store->ttl };
    apr_interval_time_t left;
    mcp_span_t token;
    apr_int32_t pid;

    if (mcp_blobs_get(store->near, name, p, &token, &left) != APR_SUCCESS
        || token.len != MCP_RESCUE_TOKEN) {
        return 0;
    }
    memcpy(&pid, token.p, sizeof(pid));
    if (pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH) {
        return 0;
    }
    change.token = token;
    if (store->far.redis) {
        mcp_rescue_far_change(&store->far, session, &change, p);
    }
    mcp_blobs_remove(store->near, name, &token);
    return 1;
}

static apr_status_t claim_near(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                               mcp_span_t token, apr_interval_time_t life, apr_pool_t *p)
{
    static const mcp_span_t none = { "", 0 };
    unsigned char name[MCP_RECORD_NAME];
    apr_status_t rv;

    mcp_record_name(session, MCP_RECORD_CLAIM, name);
    rv = mcp_blobs_put_over(store->near, name, token, life, none);
    if (rv != APR_SUCCESS && bury_claim(store, session, name, p)) {
        rv = mcp_blobs_put_over(store->near, name, token, life, none);
    }
    return rv == APR_SUCCESS ? rv : APR_EBUSY;
}

apr_status_t mcp_rescue_claim(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              apr_interval_time_t life, apr_pool_t *p, mcp_rescue_claim_t *claim)
{
    mcp_span_t token = { claim->token, MCP_RESCUE_TOKEN };
    apr_status_t rv;

    make_token(claim->token);
    rv = claim_near(store, session, token, life, p);
    if (rv == APR_SUCCESS) {
        rv = claim_far(store, session, token, life, p);
        if (rv != APR_SUCCESS) {
            drop(store, session, MCP_RECORD_CLAIM, &token);
        }
    }
    claim->before = get_sealed(store, session, MCP_RECORD_ROUTE, p);
    claim->route = read_route(store, session, claim->before, p);
    if (rv == APR_SUCCESS
        && mcp_record_decrypt(store->keys, session, MCP_RECORD_PARAMS,
                              get_sealed(store, session, MCP_RECORD_PARAMS, p), p, &claim->params)
            != APR_SUCCESS) {
        mcp_rescue_release(store, session, claim, NULL, p);
        return APR_NOTFOUND;
    }
    return rv;
}

apr_status_t mcp_rescue_renew(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              const mcp_rescue_claim_t *claim, apr_interval_time_t life,
                              apr_pool_t *p)
{
    mcp_span_t token = { claim->token, MCP_RESCUE_TOKEN };
    unsigned char name[MCP_RECORD_NAME];

    mcp_record_name(session, MCP_RECORD_CLAIM, name);
    if (mcp_blobs_put_over(store->near, name, token, life, token) == APR_EEXIST) {
        return APR_EEXIST;
    }
    return store->far.redis
            && mcp_rescue_far_renew(&store->far, session, token, life, p) == APR_EEXIST
        ? APR_EEXIST : APR_SUCCESS;
}

/* Where there is no far store, or it does not answer: the same with what is here. */
static apr_status_t change_near(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                                const mcp_rescue_change_t *change, apr_pool_t *p)
{
    unsigned char name[MCP_RECORD_NAME];
    mcp_span_t now;

    if (change->after.p) {
        mcp_record_name(session, MCP_RECORD_ROUTE, name);
        return mcp_blobs_put_over(store->near, name, change->after, change->ttl, change->before);
    }
    now = get_sealed(store, session, MCP_RECORD_ROUTE, p);
    return !now.len || (now.len == change->before.len
                        && memcmp(now.p, change->before.p, now.len) == 0) ? APR_SUCCESS
                                                                          : APR_EEXIST;
}

apr_status_t mcp_rescue_release(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                                const mcp_rescue_claim_t *claim, const mcp_record_route_t *route,
                                apr_pool_t *p)
{
    mcp_span_t token = { claim->token, MCP_RESCUE_TOKEN };
    mcp_rescue_change_t change = { token, claim->before, { NULL, 0 }, store->ttl };
    apr_status_t sealed = APR_SUCCESS, rv = APR_EGENERAL;

    if (route) {
        sealed = mcp_record_encrypt(store->keys, session, MCP_RECORD_ROUTE,
                                    mcp_record_write_route(route, p), p, &change.after);
        change.after.p = sealed == APR_SUCCESS ? change.after.p : NULL;
    }
    if (store->far.redis) {
        rv = mcp_rescue_far_change(&store->far, session, &change, p);
    }
    if (rv == APR_SUCCESS && change.after.p) {
        rv = put_near(store, session, MCP_RECORD_ROUTE, change.after);
    }
    else if (rv != APR_SUCCESS && rv != APR_EEXIST) {
        rv = change_near(store, session, &change, p);
    }
    drop(store, session, MCP_RECORD_CLAIM, &token);
    return rv == APR_SUCCESS ? sealed : rv;
}

void mcp_rescue_forget(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                       apr_pool_t *p)
{
    drop(store, session, MCP_RECORD_PARAMS, NULL);
    drop(store, session, MCP_RECORD_ROUTE, NULL);
    if (store->far.redis) {
        mcp_rescue_far_forget(&store->far, session, p);
    }
}

static void name_tool(const char *scope, const char *tool, unsigned char name[MCP_RECORD_NAME])
{
    unsigned size = MCP_RECORD_NAME;

    HMAC(EVP_sha256(), scope, (int)strlen(scope), (const unsigned char *)tool, strlen(tool), name,
         &size);
}

void mcp_rescue_note_tool(const mcp_rescue_store_t *store, const char *scope, const char *tool,
                          int is_read_only)
{
    static const mcp_span_t mark = { "R", 1 };
    unsigned char name[MCP_RECORD_NAME];

    name_tool(scope, tool, name);
    if (is_read_only) {
        mcp_blobs_put(store->near, name, mark, TOOL_LIFE);
    }
    else {
        mcp_blobs_remove(store->near, name, NULL);
    }
}

int mcp_rescue_tool_reads(const mcp_rescue_store_t *store, const char *scope, const char *tool)
{
    unsigned char name[MCP_RECORD_NAME];

    name_tool(scope, tool, name);
    return mcp_blobs_prolong(store->near, name, TOOL_LIFE) == APR_SUCCESS;
}
