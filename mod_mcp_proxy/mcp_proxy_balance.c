/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lbmethod=mcp. The session has been looked up before the balancer takes its lock; under the lock
 * the finder only reads what that left on the request, and counters, or hashes an unknown id with
 * the names of the members. It waits for nothing.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>

#include "mcp_sha256.h"

typedef struct contest_t {
    request_rec *r;
    const char *session; /* NULL: by load */
    const apr_array_header_t *avoided;
} contest_t;

/* Rendezvous hashing: a member's weight for an id depends on nothing but the two. */
static double weight_of(const contest_t *contest, const proxy_worker *worker)
{
    unsigned char digest[MCP_SHA256];
    char *text = apr_pstrcat(contest->r->pool, worker->s->name_ex, "\n", contest->session, NULL);
    apr_uint64_t bits = 0;
    int i;

    mcp_sha256(text, strlen(text), digest);
    for (i = 0; i < 6; i++) {
        bits = bits << 8 | digest[i];
    }
    return (double)bits;
}

/* What is in flight at a member, for its share of the work. Idle members are equals. */
static double load_of(const proxy_worker *worker)
{
    mcp_shared_t *shared = mcp_proxy_shared();
    int factor = worker->s->lbfactor > 0 ? worker->s->lbfactor : 1;

    return (double)mcp_shared_load(shared, mcp_shared_member(shared, mcp_proxy_member_hash(worker)))
        / factor;
}

static int is_avoided(const apr_array_header_t *avoided, const proxy_worker *worker)
{
    int i;

    for (i = 0; avoided && i < avoided->nelts; i++) {
        if (APR_ARRAY_IDX(avoided, i, const proxy_worker *) == worker) {
            return 1;
        }
    }
    return 0;
}

int mcp_proxy_has_another(const mcp_proxy_request_t *q, const proxy_worker *worker)
{
    proxy_worker **workers = q->balancer ? (proxy_worker **)q->balancer->workers->elts : NULL;
    int i;

    for (i = 0; workers && i < q->balancer->workers->nelts; i++) {
        if (workers[i] != worker && !is_avoided(q->avoided, workers[i])
            && PROXY_WORKER_IS_USABLE(workers[i]) && !PROXY_WORKER_IS_DRAINING(workers[i])) {
            return 1;
        }
    }
    return 0;
}

static int is_better(proxy_worker *current, proxy_worker *best, void *baton)
{
    const contest_t *contest = baton;
    double a, b;

    if (!best) {
        return 1;
    }
    if (is_avoided(contest->avoided, current) != is_avoided(contest->avoided, best)) {
        return is_avoided(contest->avoided, best);
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
    contest_t contest = { r, q->by_load ? NULL : q->session, q->avoided };

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
