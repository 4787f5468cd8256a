/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of a request: where the id stands, whose it is, and which member has it. The table holds
 * digests; this is the only file that makes them.
 */
#include "mcp_proxy.h"

#include "mcp_clock.h"
#include "mcp_httpd_request.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_ids.h"
#include "mcp_proxy_rescue.h"
#include "mcp_sha256.h"

/* Entries looked at for each session that is learnt: the table never keeps many dead ones. */
#define SWEEP 8

static const char *next_in_query(apr_pool_t *p, const char **query)
{
    mcp_id_place_t place;

    return mcp_id_next_in_query(p, query, &place) ? mcp_id_decode(p, place.text) : NULL;
}

/* A word, as most paths end with, is none. */
static const char *session_in_path(apr_pool_t *p, const char *path, int *is_guess)
{
    mcp_id_place_t place;
    const char *id;

    if (!mcp_id_in_path(p, path, strlen(path), &place)) {
        return NULL;
    }
    id = mcp_id_decode(p, place.text);
    if (place.is_guess && !mcp_id_is_likely(id)) {
        return NULL;
    }
    *is_guess = place.is_guess;
    return id;
}

const char *mcp_proxy_endpoint_id(apr_pool_t *p, const char *path, const char *query)
{
    const char *id = next_in_query(p, &query);
    int is_guess;

    return id ? id : session_in_path(p, path, &is_guess);
}

void mcp_proxy_find_session_id(request_rec *r, mcp_proxy_request_t *q)
{
    const char *id = apr_table_get(r->headers_in, "Mcp-Session-Id"), *query = r->args;

    /* 2026-07-28 has no sessions: what a client sends all the same is ignored. */
    if (mcp_request_is_stateless(r)) {
        return;
    }
    if (!id || !*id) {
        id = next_in_query(r->pool, &query);
    }
    if (!id && r->method_number == M_POST && r->parsed_uri.path) {
        id = session_in_path(r->pool, r->parsed_uri.path, &q->session_is_guess);
    }
    q->session = q->backend_session = id;
}

/* Of everybody without an identity: SHA-256 of nothing, the start of it. */
static const unsigned char nobody[MCP_SESSION_DIGEST] = {
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24
};

static void make_key(request_rec *r, mcp_session_key_t *key, const char *scope, const char *id)
{
    unsigned char digest[MCP_SHA256];
    const char *identity = mcp_request_identity(r);
    apr_size_t scope_len = strlen(scope) + 1, id_len = strlen(id);
    char *text = apr_palloc(r->pool, scope_len + id_len);

    memcpy(text, scope, scope_len);
    memcpy(text + scope_len, id, id_len);
    mcp_sha256(text, scope_len + id_len, digest);
    memcpy(key->id, digest, sizeof(key->id));
    if (identity) {
        mcp_sha256(identity, strlen(identity), digest);
    }
    memcpy(key->owner, identity ? digest : nobody, sizeof(key->owner));
}

/*
 * What other gateways may know of it is asked for later, together with all else; also of one that
 * is another identity's here, since its server may have given the id out anew. While nobody can be
 * asked, an id that is unknown here may be anybody's: a user has those only that are known as his.
 */
static apr_status_t find(request_rec *r, mcp_proxy_request_t *q, const mcp_session_key_t *key,
                         int is_guess, apr_uint64_t *member)
{
    apr_status_t here = mcp_far_use(key, q->balancer, q->single, member);
    apr_status_t unanswered;

    if (here == APR_SUCCESS || !mcp_far_is_on()) {
        return here;
    }
    unanswered = !is_guess && mcp_request_identity(r) ? APR_EACCES : here;
    switch (mcp_far_want(r, &q->ask, key, here, unanswered)) {
    case APR_SUCCESS:
        return APR_NOTFOUND;
    case APR_EBUSY:
        return unanswered;
    default:
        return here;
    }
}

static int is_foreign(request_rec *r, mcp_proxy_request_t *q, const char *id, int is_guess)
{
    mcp_session_key_t key;
    apr_uint64_t member;

    make_key(r, &key, q->scope, id);
    return find(r, q, &key, is_guess, &member) == APR_EACCES;
}

static int names_foreign_path(request_rec *r, mcp_proxy_request_t *q, const char *path)
{
    int is_guess;
    const char *id = session_in_path(r->pool, path, &is_guess);

    return id && (!q->session || strcmp(id, q->session)) && is_foreign(r, q, id, is_guess);
}

/*
 * The gateway goes by one id, the backend may go by another that stands in the same request: in
 * another place, behind it, or in a header that this protocol version has not. None of them may be
 * somebody else's.
 */
static int names_foreign_session(request_rec *r, mcp_proxy_request_t *q)
{
    const char *header = apr_table_get(r->headers_in, "Mcp-Session-Id");
    const char *query = r->args, *id;

    if (header && *header && header != q->session && is_foreign(r, q, header, 0)) {
        return 1;
    }
    while ((id = next_in_query(r->pool, &query)) != NULL) {
        if ((!q->session || strcmp(id, q->session)) && is_foreign(r, q, id, 0)) {
            return 1;
        }
    }
    return names_foreign_path(r, q, r->uri)
        || (r->parsed_uri.path && strcmp(r->parsed_uri.path, r->uri) != 0
            && names_foreign_path(r, q, r->parsed_uri.path));
}

/* What does not open is nobody's session, and no backend is asked about it. */
static apr_status_t look_up_sealed(request_rec *r, mcp_proxy_request_t *q)
{
    if (!q->session) {
        return APR_NOTFOUND;
    }
    if (mcp_sealed_open(r, q->scope, q->session, &q->member_name, &q->backend_session)
        == APR_SUCCESS) {
        q->session_known = 1;
        make_key(r, &q->key, q->scope, q->session);
        mcp_rescue_follow(r, q);
        return APR_SUCCESS;
    }
    if (q->session_is_guess) {
        q->session = q->backend_session = NULL;
        return APR_NOTFOUND;
    }
    return APR_EACCES;
}

/* A segment of the path that nobody knows as a session is one of the path. */
static void drop_guess(mcp_proxy_request_t *q)
{
    if (q->session_is_guess && !q->session_known) {
        q->session = q->backend_session = NULL;
        q->looked_up = 0;
    }
}

apr_status_t mcp_proxy_look_up(request_rec *r, mcp_proxy_request_t *q)
{
    apr_status_t rv;

    if (mcp_proxy_is_sealed()) {
        return look_up_sealed(r, q);
    }
    if (names_foreign_session(r, q)) {
        q->ask = NULL;
        return APR_EACCES;
    }
    if (!q->session) {
        return APR_NOTFOUND;
    }
    make_key(r, &q->key, q->scope, q->session);
    q->looked_up = 1;
    rv = find(r, q, &q->key, q->session_is_guess, &q->member);
    q->session_known = rv == APR_SUCCESS;
    if (q->session_known) {
        mcp_rescue_follow(r, q);
    }
    if (rv == APR_EACCES) {
        q->ask = NULL;
        if (q->session_is_guess) {
            return rv;
        }
    }
    if (!q->ask) {
        drop_guess(q);
    }
    return q->session ? rv : APR_NOTFOUND;
}

/* A member that is unknown here, by that name, is one that has been removed. */
static apr_uint64_t member_named(const mcp_proxy_request_t *q, const char *name)
{
    const proxy_worker *worker = q->balancer ? mcp_proxy_member_by_name(q->balancer, name)
                                             : q->single;

    return worker ? mcp_proxy_member_hash(worker) : 0;
}

apr_status_t mcp_proxy_look_up_far(request_rec *r, mcp_proxy_request_t *q)
{
    const char *name;

    if (mcp_far_is_any_foreign(q->ask)) {
        return APR_EACCES;
    }
    if (q->looked_up && !q->session_known
        && mcp_far_answer(q->ask, &q->key, &name) == APR_SUCCESS) {
        q->session_known = 1;
        q->member = member_named(q, name);
        if (q->member
            && mcp_session_learn(mcp_proxy_sessions(), &q->key, q->member, mcp_clock_now())
                == APR_SUCCESS) {
            mcp_session_told(mcp_proxy_sessions(), &q->key, mcp_clock_now());
        }
    }
    if (q->session_known) {
        mcp_rescue_follow(r, q);
    }
    drop_guess(q);
    return q->session_known ? APR_SUCCESS : APR_NOTFOUND;
}

/* Nothing is kept: the client's id says all there is to know. */
static void learn_sealed(request_rec *r, mcp_proxy_request_t *q, const char *id,
                         const proxy_worker *worker)
{
    const char *text = mcp_sealed_text(r, q->scope, worker, id);

    if (text) {
        q->session = text;
        q->backend_session = id;
        q->member_name = mcp_proxy_member_name(r->pool, worker);
        q->session_is_guess = 0;
        q->session_known = 1;
        make_key(r, &q->key, q->scope, q->session);
    }
}

void mcp_proxy_learn(request_rec *r, mcp_proxy_request_t *q, const char *id,
                     const proxy_worker *worker)
{
    apr_status_t rv;

    if (mcp_proxy_is_sealed()) {
        learn_sealed(r, q, id, worker);
        return;
    }
    make_key(r, &q->key, q->scope, id);
    q->session = q->backend_session = id;
    q->session_is_guess = 0;
    q->looked_up = q->session_known = 1;
    q->member = mcp_proxy_member_hash(worker);
    mcp_session_sweep(mcp_proxy_sessions(), mcp_clock_now(), SWEEP);
    rv = mcp_session_learn(mcp_proxy_sessions(), &q->key, q->member, mcp_clock_now());
    if (rv != APR_SUCCESS && !mcp_far_is_on()) {
        ap_log_rerror(APLOG_MARK, APLOG_WARNING, rv, r, MCP_LOGNO(2020)
                      "the session table is full of sessions with open streams: a new session "
                      "could not be learnt; raise MCPProxySessionStore shm:%u",
                      mcp_proxy_session_entries());
    }
}

void mcp_proxy_move(request_rec *r, mcp_proxy_request_t *q, const proxy_worker *worker)
{
    q->member_name = mcp_proxy_member_name(r->pool, worker);
    if (!mcp_proxy_is_sealed()) {
        q->member = mcp_proxy_member_hash(worker);
        mcp_session_learn(mcp_proxy_sessions(), &q->key, q->member, mcp_clock_now());
        mcp_far_move(&q->key, worker);
    }
}

void mcp_proxy_forget(mcp_proxy_request_t *q)
{
    if (q->looked_up) {
        mcp_session_forget(mcp_proxy_sessions(), &q->key);
    }
    if (q->session_known) {
        mcp_rescue_ended(q, q->pool);
    }
    /* Not for ids that somebody has made up. */
    if (q->looked_up && q->session_known) {
        mcp_far_forget(&q->key);
    }
}
