/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a request's session is looked up, and what comes of it. It happens at the end of the fixups
 * phase, where a request can still wait without a thread; the answer is given in pre_request, after
 * all other fixups, so that what a request costs (limits, logs) does not depend on whose session it
 * names. Requests that never had a fixups phase of ours (SetHandler "proxy:...") do both there.
 */
#include "mcp_proxy.h"

#include "mcp_clock.h"
#include "mcp_httpd_error.h"
#include "mcp_proxy_far.h"
#include "mcp_proxy_rescue.h"

#define GRACE apr_time_from_msec(1)

static int session_is_gone(request_rec *r, const char *why)
{
    ap_log_rerror(APLOG_MARK, APLOG_DEBUG, 0, r, "session refused: %s", why);
    mcp_error_set(r, HTTP_NOT_FOUND, 0, "Session not found", NULL);
    return mcp_error_send(r, HTTP_NOT_FOUND);
}

/* Whose sessions a request for this URL can name: its balancer's, or its single server's. */
static const char *scope_of(request_rec *r, mcp_proxy_request_t *q, proxy_server_conf *conf,
                            const char *url)
{
    if (strncasecmp(url, BALANCER_PREFIX, strlen(BALANCER_PREFIX)) == 0) {
        q->balancer = ap_proxy_get_balancer(r->pool, conf, url, 1);
        return q->balancer ? q->balancer->s->name : NULL;
    }
    q->single = ap_proxy_get_worker(r->pool, NULL, conf, url);
    q->single = q->single ? q->single : conf->reverse;
    return q->single ? q->single->s->name_ex : NULL;
}

/*
 * The table does not know all ids of the request, and other gateways may. An answer takes less than
 * parking does, mostly.
 */
static int ask(request_rec *r, mcp_proxy_request_t *q, int may_suspend)
{
    apr_status_t rv = mcp_far_ask_start(q->ask);

    q->asked = 1;
    if (rv == APR_EAGAIN) {
        rv = mcp_far_ask_wait(q->ask, mcp_clock_now() + GRACE);
    }
    if (rv == APR_EAGAIN && may_suspend) {
        mcp_park_t *park = mcp_park_create(r);

        if (mcp_park_is_async(park)) {
            return mcp_far_ask_park(q->ask, park);
        }
    }
    while (rv == APR_EAGAIN) {
        rv = mcp_far_ask_wait(q->ask, mcp_far_ask_deadline(q->ask));
    }
    return OK;
}

int mcp_proxy_find_session(request_rec *r, int may_suspend)
{
    proxy_server_conf *conf = ap_get_module_config(r->server->module_config, &proxy_module);
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    int status = OK;

    if (!q->scope && strncmp(r->filename, "proxy:", 6) == 0) {
        q->looked_at = r->filename;
        q->scope = scope_of(r, q, conf, r->filename + 6);
        if (q->scope) {
            q->found = mcp_proxy_look_up(r, q);
        }
    }
    if (q->ask && !q->asked) {
        status = ask(r, q, may_suspend);
    }
    if (q->ask && status == OK) {
        q->found = mcp_proxy_look_up_far(r, q);
        q->ask = NULL;
    }
    return status;
}

/* A fixup that came later, as of mod_rewrite, may have sent it to another balancer or server. */
static int goes_elsewhere(const request_rec *r, const mcp_proxy_request_t *q)
{
    const char *host = q->looked_at ? strstr(q->looked_at, "://") : NULL;

    return host && strncmp(q->looked_at, r->filename,
                           (apr_size_t)(host - q->looked_at) + 3 + strcspn(host + 3, "/?")) != 0;
}

static void start_over(request_rec *r, mcp_proxy_request_t *q)
{
    q->scope = q->member_name = NULL;
    q->balancer = NULL;
    q->single = NULL;
    q->ask = NULL;
    q->asked = q->found = q->looked_up = q->session_known = q->session_is_guess = 0;
    q->generation = 0;
    mcp_proxy_find_session_id(r, q);
}

static int check_lbmethod(request_rec *r, const proxy_balancer *balancer)
{
    if (balancer && (!balancer->lbmethod
                     || strcmp(balancer->lbmethod->name, MCP_PROXY_LBMETHOD) != 0)) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, 0, r, MCP_LOGNO(2021)
                      "MCPProxy needs lbmethod=mcp, and %s has %s", balancer->s->name,
                      balancer->lbmethod ? balancer->lbmethod->name : "none");
        return mcp_error_send(r, HTTP_INTERNAL_SERVER_ERROR);
    }
    return OK;
}

proxy_worker *mcp_proxy_session_member(const mcp_proxy_request_t *q)
{
    return q->member_name ? mcp_proxy_member_by_name(q->balancer, q->member_name)
                          : mcp_proxy_member_by_hash(q->balancer, q->member);
}

/* The member that has the session, or the end of the request. */
static int pin(request_rec *r, mcp_proxy_request_t *q)
{
    if (q->found == APR_EACCES) {
        return session_is_gone(r, "it is not this identity's");
    }
    if (!q->balancer && q->member_name
        && !mcp_proxy_member_has_name(q->single, q->member_name)) {
        return session_is_gone(r, "it is another server's");
    }
    if (!q->session_known || !q->balancer) {
        return OK;
    }
    q->pinned = mcp_proxy_session_member(q);
    if (!q->pinned || PROXY_WORKER_IS(q->pinned, PROXY_WORKER_DISABLED)
        || PROXY_WORKER_IS(q->pinned, PROXY_WORKER_STOPPED)) {
        if (!r->header_only && mcp_rescue_could(q)) {
            q->pinned = NULL;
            q->is_out = q->by_load = 1;
            return OK;
        }
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
    if (q->routed) {
        return DECLINED; /* another attempt */
    }
    q->asked_for = apr_pstrdup(r->pool, *url);
    status = mcp_proxy_admit(r, 0);
    if (goes_elsewhere(r, q)) {
        start_over(r, q);
    }
    if (status == OK) {
        status = mcp_proxy_find_session(r, 0);
    }
    if (status == OK) {
        status = check_lbmethod(r, q->balancer);
    }
    if (status == OK) {
        status = pin(r, q);
    }
    q->routed = 1;
    return status == OK ? DECLINED : status;
}
