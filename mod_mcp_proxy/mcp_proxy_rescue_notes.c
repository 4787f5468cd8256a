/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What requests leave behind for a rescue of their session, and find of one: how it was opened,
 * where it is now, which tools only read. The steps of a rescue are in mcp_proxy_rescue.c.
 */
#include "mcp_proxy_rescue.h"

#include <http_log.h>

#include "mcp_httpd_request.h"
#include "mcp_proxy_rescue_store.h"
#include "mcp_proxy_tools.h"

#define MOST_LIST (1024 * 1024)

void mcp_rescue_learnt(mcp_exchange_t *x)
{
    const mcp_rescue_store_t *store = mcp_proxy_rescues();
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;
    apr_status_t rv;

    if (!store || !rpc || rpc->kind != MCP_RPC_REQUEST || !rpc->params.p
        || strcmp(rpc->method, "initialize") != 0) {
        return;
    }
    rv = mcp_rescue_remember(store, &x->q->key, rpc->params, x->r->pool);
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, rv, x->r, MCP_LOGNO(2150)
                      "the parameters of initialize could not be kept: the session cannot be "
                      "rescued");
    }
}

void mcp_rescue_follow(request_rec *r, mcp_proxy_request_t *q)
{
    const mcp_rescue_store_t *store = mcp_proxy_rescues();
    mcp_record_route_t route;

    if (!store || mcp_rescue_find_route(store, &q->key, r->pool, &route) != APR_SUCCESS) {
        return;
    }
    /*
     * Its member, too: what the table said is older than this where the session was moved just now,
     * or by another gateway.
     */
    q->member_name = route.member;
    q->backend_session = route.session;
    q->generation = route.generation;
}

void mcp_rescue_hold(const mcp_proxy_request_t *q, apr_interval_time_t life)
{
    const mcp_rescue_store_t *store = mcp_proxy_rescues();

    if (store && q->session_known) {
        mcp_rescue_prolong(store, &q->key, life > store->ttl ? life : store->ttl);
    }
}

void mcp_rescue_ended(const mcp_proxy_request_t *q, apr_pool_t *p)
{
    const mcp_rescue_store_t *store = mcp_proxy_rescues();

    if (store) {
        mcp_rescue_forget(store, &q->key, p);
    }
}

/* ---- reading along: which tools only read ---- */

struct mcp_tool_list_t {
    int is_stream;
    mcp_gather_t body;
};

void mcp_rescue_watch_list(mcp_exchange_t *x)
{
    const mcp_rpc_t *rpc = mcp_request_get(x->r)->rpc;

    if (!mcp_proxy_rescues() || !rpc || rpc->kind != MCP_RPC_REQUEST || x->head.status != HTTP_OK
        || strcmp(rpc->method, "tools/list") != 0
        || mcp_http_field(&x->head, "Content-Encoding")) {
        return;
    }
    x->list = apr_pcalloc(x->r->pool, sizeof(*x->list));
    x->list->is_stream = mcp_answer_is_stream(mcp_http_field(&x->head, "Content-Type"));
}

void mcp_rescue_read_along(mcp_exchange_t *x, const char *buf, apr_size_t len)
{
    if (mcp_gather(&x->list->body, buf, len, MOST_LIST, x->r->pool) != APR_SUCCESS) {
        x->list = NULL;
    }
}

static void note_tool(void *baton, const char *name, int is_read_only)
{
    const mcp_exchange_t *x = baton;

    mcp_rescue_note_tool(mcp_proxy_rescues(), x->q->scope, name, is_read_only);
}

void mcp_rescue_note_list(mcp_exchange_t *x)
{
    mcp_span_t body = { x->list->body.p, x->list->body.len };

    if (!x->broken && body.p) {
        mcp_tools_read(body, x->list->is_stream, mcp_request_get(x->r)->rpc->id, note_tool, x,
                       x->r->pool);
    }
}
