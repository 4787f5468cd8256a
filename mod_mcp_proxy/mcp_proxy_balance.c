/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lbmethod=mcp. The session is looked up before the balancer takes its lock; under the lock the
 * finder only reads what that left on the request, and counters, or hashes an unknown id with the
 * names of the members. It waits for nothing.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <openssl/sha.h>

#include "mcp_httpd_error.h"

static proxy_worker *member_by_hash(proxy_balancer *balancer, apr_uint64_t hash)
{
    proxy_worker **workers = (proxy_worker **)balancer->workers->elts;
    int i;

    for (i = 0; i < balancer->workers->nelts; i++) {
        if (mcp_proxy_member_hash(workers[i]) == hash) {
            return workers[i];
        }
    }
    return NULL;
}

static int session_is_gone(request_rec *r, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r, "session refused: %s", why);
    mcp_error_set(r, HTTP_NOT_FOUND, 0, "Session not found", NULL);
    return mcp_error_send(r, HTTP_NOT_FOUND);
}

static int find_member(request_rec *r, mcp_proxy_request_t *q)
{
    apr_status_t rv = mcp_proxy_look_up(r, q, q->balancer->s->name);

    if (rv == APR_EACCES) {
        return session_is_gone(r, "it belongs to another identity");
    }
    if (rv != APR_SUCCESS) {
        return OK;
    }
    q->pinned = member_by_hash(q->balancer, q->member);
    if (!q->pinned || PROXY_WORKER_IS(q->pinned, PROXY_WORKER_DISABLED)
        || PROXY_WORKER_IS(q->pinned, PROXY_WORKER_STOPPED)) {
        mcp_proxy_forget(q);
        mcp_shared_add(mcp_proxy_shared(), mcp_proxy_row(), MCP_SHARED_SESSIONS_LOST, 1);
        return session_is_gone(r, "its member is disabled, stopped or removed");
    }
    return OK;
}

int mcp_proxy_pre_request(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                          proxy_server_conf *conf, char **url)
{
    mcp_proxy_request_t *q;
    int status;

    if (!mcp_proxy_is_on(r) || r->proxyreq != PROXYREQ_REVERSE) {
        return DECLINED;
    }
    q = mcp_proxy_request(r);
    if (!q->balancer) {
        q->balancer = *balancer;
        if (!q->balancer && strncasecmp(*url, BALANCER_PREFIX, strlen(BALANCER_PREFIX)) == 0) {
            q->balancer = ap_proxy_get_balancer(r->pool, conf, *url, 1);
        }
        if (!q->balancer) {
            return DECLINED;
        }
        if (!q->balancer->lbmethod
            || strcmp(q->balancer->lbmethod->name, MCP_PROXY_LBMETHOD) != 0) {
            ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, MCP_LOGNO(2021)
                          "MCPProxy needs lbmethod=mcp, and %s has %s", q->balancer->s->name,
                          q->balancer->lbmethod ? q->balancer->lbmethod->name : "none");
            return mcp_error_send(r, HTTP_INTERNAL_SERVER_ERROR);
        }
        status = find_member(r, q);
        if (status != OK) {
            return status;
        }
    }
    return DECLINED;
}

typedef struct contest_t {
    request_rec *r;
    const char *session; /* NULL: by load */
} contest_t;

/* Rendezvous hashing: a member's weight for an id depends on nothing but the two. */
static double weight_of(const contest_t *contest, const proxy_worker *worker)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    char *text = apr_pstrcat(contest->r->pool, worker->s->name_ex, "\n", contest->session, NULL);
    apr_uint64_t bits = 0;
    int i;

    SHA256((unsigned char *)text, strlen(text), digest);
    for (i = 0; i < 6; i++) {
        bits = bits << 8 | digest[i];
    }
    return (double)bits;
}

/* What is in flight at a member, one more included, for its share of the work. */
static double load_of(const proxy_worker *worker)
{
    mcp_shared_t *shared = mcp_proxy_shared();
    int factor = worker->s->lbfactor > 0 ? worker->s->lbfactor : 1;

    return (mcp_shared_load(shared, mcp_shared_member(shared, mcp_proxy_member_hash(worker))) + 1.0)
        / factor;
}

static int is_better(proxy_worker *current, proxy_worker *best, void *baton)
{
    const contest_t *contest = baton;
    double a, b;

    if (!best) {
        return 1;
    }
    if (contest->session) {
        return weight_of(contest, current) > weight_of(contest, best);
    }
    a = load_of(current);
    b = load_of(best);
    if (a != b) {
        return a < b;
    }
    return (double)current->s->elected * best->s->lbfactor
        < (double)best->s->elected * current->s->lbfactor;
}

static proxy_worker *finder(proxy_balancer *balancer, request_rec *r)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    contest_t contest = { r, q->session };

    if (q->pinned) {
        return q->pinned;
    }
    return ap_proxy_balancer_get_best_worker(balancer, r, is_better, &contest);
}

static apr_status_t nothing_to_do(proxy_balancer *balancer, server_rec *s)
{
    return APR_SUCCESS;
}

static const proxy_balancer_method method = {
    MCP_PROXY_LBMETHOD, finder, NULL, nothing_to_do, nothing_to_do, NULL
};

void mcp_proxy_register_lbmethod(apr_pool_t *p)
{
    ap_register_provider(p, PROXY_LBMETHOD, MCP_PROXY_LBMETHOD, "0", &method);
}
