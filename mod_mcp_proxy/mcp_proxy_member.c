/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The servers that this module proxies to. Where a session is kept they go by a hash in this
 * httpd's own memory, and by a name where other gateways read it, which may reach the same member
 * by another URL.
 */
#include "mcp_proxy.h"

#include <apr_strings.h>
#include <http_main.h>

apr_uint64_t mcp_proxy_member_hash(const proxy_worker *worker)
{
    return (apr_uint64_t)worker->s->hash.def << 32 | worker->s->hash.fnv;
}

proxy_worker *mcp_proxy_member_by_hash(const proxy_balancer *balancer, apr_uint64_t hash)
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

const char *mcp_proxy_member_name(apr_pool_t *p, const proxy_worker *worker)
{
    if (*worker->s->route) {
        return worker->s->route;
    }
    return apr_psprintf(p, "#%016" APR_UINT64_T_HEX_FMT, mcp_proxy_member_hash(worker));
}

void mcp_proxy_member_copy_name(const proxy_worker *worker, char *name, apr_size_t size)
{
    if (*worker->s->route) {
        apr_cpystrn(name, worker->s->route, size);
        return;
    }
    apr_snprintf(name, (int)size, "#%016" APR_UINT64_T_HEX_FMT, mcp_proxy_member_hash(worker));
}

int mcp_proxy_member_has_name(const proxy_worker *worker, const char *name)
{
    char hash[24];

    if (*worker->s->route) {
        return strcmp(worker->s->route, name) == 0;
    }
    apr_snprintf(hash, sizeof(hash), "#%016" APR_UINT64_T_HEX_FMT, mcp_proxy_member_hash(worker));
    return strcmp(hash, name) == 0;
}

proxy_worker *mcp_proxy_member_by_name(const proxy_balancer *balancer, const char *name)
{
    proxy_worker **workers = (proxy_worker **)balancer->workers->elts;
    int i;

    for (i = 0; i < balancer->workers->nelts; i++) {
        if (mcp_proxy_member_has_name(workers[i], name)) {
            return workers[i];
        }
    }
    return NULL;
}

/* ---- all of them, gathered from what mod_proxy has ---- */

static int has(const apr_array_header_t *members, apr_uint64_t hash)
{
    int i;

    for (i = 0; i < members->nelts; i++) {
        if (APR_ARRAY_IDX(members, i, mcp_member_t).hash == hash) {
            return 1;
        }
    }
    return 0;
}

static void add(apr_array_header_t *members, proxy_worker *worker, const char *balancer, int slot)
{
    mcp_member_t *member = apr_array_push(members);

    member->worker = worker;
    member->balancer = balancer;
    member->url = worker->s->name_ex;
    member->route = *worker->s->route ? worker->s->route : member->url;
    member->hash = mcp_proxy_member_hash(worker);
    member->slot = slot;
}

static int slot_of(const proxy_worker *worker)
{
    return mcp_shared_find_member(mcp_proxy_shared(), mcp_proxy_member_hash(worker));
}

static void add_balancer(apr_array_header_t *members, proxy_balancer *balancer)
{
    proxy_worker **workers = (proxy_worker **)balancer->workers->elts;
    int i;

    if (!balancer->lbmethod || strcmp(balancer->lbmethod->name, MCP_PROXY_LBMETHOD) != 0) {
        return;
    }
    for (i = 0; i < balancer->workers->nelts; i++) {
        if (workers[i]->s && !has(members, mcp_proxy_member_hash(workers[i]))) {
            add(members, workers[i], balancer->s->name, slot_of(workers[i]));
        }
    }
}

/* A server without a balancer is one of ours once something has gone there. */
static void add_single(apr_array_header_t *members, proxy_worker *worker)
{
    if (worker->s && slot_of(worker) >= 0 && !has(members, mcp_proxy_member_hash(worker))) {
        add(members, worker, "", slot_of(worker));
    }
}

apr_array_header_t *mcp_proxy_members(apr_pool_t *p)
{
    apr_array_header_t *members = apr_array_make(p, 8, sizeof(mcp_member_t));
    server_rec *s;
    int i;

    for (s = ap_server_conf; s; s = s->next) {
        proxy_server_conf *conf = ap_get_module_config(s->module_config, &proxy_module);

        for (i = 0; i < conf->balancers->nelts; i++) {
            add_balancer(members, &APR_ARRAY_IDX(conf->balancers, i, proxy_balancer));
        }
        for (i = 0; i < conf->workers->nelts; i++) {
            add_single(members, &APR_ARRAY_IDX(conf->workers, i, proxy_worker));
        }
    }
    return members;
}
