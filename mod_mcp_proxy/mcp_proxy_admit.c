/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fixups phase: read the body (parked while it is still coming), look at Origin and at the
 * 2026-07-28 headers, put what the message is into the environment, have the session looked up.
 */
#include "mcp_proxy.h"

#include <apr_escape.h>
#include <apr_strings.h>
#include <apr_uri.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>

#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_sha256.h"
#include "mcp_value.h"

#define SESSION_LABEL_BYTES 6

mcp_proxy_request_t *mcp_proxy_request(request_rec *r)
{
    mcp_proxy_request_t *q = ap_get_module_config(r->request_config, &mcp_proxy_module);

    if (!q) {
        q = apr_pcalloc(r->pool, sizeof(*q));
        q->pool = r->pool;
        ap_set_module_config(r->request_config, &mcp_proxy_module, q);
    }
    return q;
}

int mcp_proxy_is_on(request_rec *r)
{
    return (int)mcp_proxy_conf(r->per_dir_config, MCP_PROXY_ENABLED);
}

int mcp_proxy_is_name_of(const server_rec *s, const char *name)
{
    int i;

    if (s->server_hostname && strcasecmp(s->server_hostname, name) == 0) {
        return 1;
    }
    for (i = 0; s->names && i < s->names->nelts; i++) {
        const char *alias = APR_ARRAY_IDX(s->names, i, const char *);

        if (alias && strcasecmp(alias, name) == 0) {
            return 1;
        }
    }
    for (i = 0; s->wild_names && i < s->wild_names->nelts; i++) {
        const char *alias = APR_ARRAY_IDX(s->wild_names, i, const char *);

        if (alias && ap_strcasecmp_match(name, alias) == 0) {
            return 1;
        }
    }
    return 0;
}

/* MCPProxyAllowOrigin same: ServerName and ServerAlias, never what the client says in Host. */
static int is_same_origin(request_rec *r, const char *origin)
{
    apr_uri_t uri;
    apr_port_t port;

    if (apr_uri_parse(r->pool, origin, &uri) != APR_SUCCESS || !uri.scheme || !uri.hostname
        || strcasecmp(uri.scheme, ap_http_scheme(r)) != 0 || uri.user || uri.password
        || (uri.path && *uri.path) || uri.query || uri.fragment) {
        return 0;
    }
    port = uri.port_str && *uri.port_str ? uri.port : apr_uri_port_of_scheme(uri.scheme);
    return (port == r->server->port || port == r->connection->local_addr->port)
        && mcp_proxy_is_name_of(r->server, uri.hostname);
}

static int is_origin_allowed(request_rec *r, const char *origin)
{
    const apr_array_header_t *allowed = mcp_proxy_origins(r->per_dir_config);
    int i;

    if (!allowed) {
        return is_same_origin(r, origin);
    }
    for (i = 0; i < allowed->nelts; i++) {
        const char *one = APR_ARRAY_IDX(allowed, i, const char *);

        if (strcmp(one, "*") == 0 || strcasecmp(one, origin) == 0) {
            return 1;
        }
    }
    return 0;
}

static void set_message_env(request_rec *r)
{
    const mcp_rpc_t *rpc = mcp_request_rpc(r);

    if (rpc->kind == MCP_RPC_BATCH) {
        apr_table_setn(r->subprocess_env, "MCP_METHOD", "batch");
    }
    else if (rpc->method) {
        apr_table_setn(r->subprocess_env, "MCP_METHOD", rpc->method);
    }
    if (rpc->name || rpc->uri) {
        apr_table_setn(r->subprocess_env, "MCP_NAME", rpc->name ? rpc->name : rpc->uri);
    }
    if (rpc->version) {
        apr_table_setn(r->subprocess_env, "MCP_VERSION", rpc->version);
    }
}

/* A digest, so that logs can tell sessions apart and nobody can use what stands there. */
static void set_session_env(request_rec *r, const mcp_proxy_request_t *q)
{
    unsigned char digest[MCP_SHA256];

    if (q->session && !q->session_is_guess) {
        mcp_sha256(q->session, strlen(q->session), digest);
        apr_table_setn(r->subprocess_env, "MCP_SESSION",
                       apr_pescape_hex(r->pool, digest, SESSION_LABEL_BYTES, 0));
    }
}

static void log_refused_body(request_rec *r, int status)
{
    if (status == HTTP_REQUEST_TIME_OUT) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2010)
                      "the request body did not come within MCPProxyBodyTimeout");
    }
    else if (status == HTTP_REQUEST_ENTITY_TOO_LARGE) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2011)
                      "the request body is larger than MCPProxyMaxBody");
    }
}

/* Whether the body is for the gateway to read. It does not decode. */
static int has_message(request_rec *r)
{
    const mcp_request_t *body = mcp_request_get(r);

    return body->json && !body->coding && body->length > 0;
}

static int judge(request_rec *r)
{
    const char *origin = apr_table_get(r->headers_in, "Origin");

    if (r->method_number == M_OPTIONS) {
        return OK;
    }
    if (origin && !is_origin_allowed(r, origin)) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2012)
                      "Origin %s is not allowed (MCPProxyAllowOrigin)",
                      ap_escape_logitem(r->pool, origin));
        return mcp_error_set(r, HTTP_FORBIDDEN, 0, "This Origin is not allowed", NULL);
    }
    if (r->method_number == M_POST && mcp_proxy_conf(r->per_dir_config, MCP_PROXY_CHECK_HEADERS)
        && (has_message(r) || mcp_request_is_stateless(r))) {
        return mcp_request_check_headers(r);
    }
    return OK;
}

int mcp_proxy_read_body(request_rec *r, int may_suspend)
{
    int status = mcp_request_read(r, mcp_proxy_conf(r->per_dir_config, MCP_PROXY_MAX_BODY),
                                  mcp_proxy_conf(r->per_dir_config, MCP_PROXY_BODY_TIMEOUT),
                                  may_suspend);

    log_refused_body(r, status);
    return status;
}

void mcp_proxy_set_env(request_rec *r)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    const char *identity = mcp_request_identity(r);
    const char *version = apr_table_get(r->headers_in, "MCP-Protocol-Version");

    mcp_proxy_find_session_id(r, q);
    set_session_env(r, q);
    if (version) {
        apr_table_setn(r->subprocess_env, "MCP_VERSION", version);
    }
    if (has_message(r)) {
        set_message_env(r);
    }
    if (identity) {
        apr_table_setn(r->subprocess_env, "MCP_USER", identity);
    }
}

/*
 * httpd walks the <If> sections before a body can be read. Where there are any, the sections are
 * walked once more, as ap_process_request_internal() does it, now that conditions can ask for the
 * message.
 */
static int walk_conditions(request_rec *r)
{
    const core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    int status;

    if (!core->sec_if || !core->sec_if->nelts) {
        return OK;
    }
    r->per_dir_config = r->server->lookup_defaults;
    status = ap_run_map_to_storage(r);
    if (status == OK || status == DECLINED) {
        status = ap_location_walk(r);
    }
    if (status == OK) {
        status = ap_if_walk(r);
    }
    core = ap_get_core_module_config(r->per_dir_config);
    r->log = core->log ? core->log : r->log;
    return status;
}

int mcp_proxy_admit(request_rec *r, int may_suspend)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    int status;

    if (q->admitted) {
        return OK;
    }
    status = mcp_proxy_read_body(r, may_suspend);
    if (status == SUSPENDED || status == AP_FILTER_ERROR) {
        return status;
    }
    if (status != OK) {
        return mcp_error_send(r, status);
    }
    q->admitted = 1;
    mcp_proxy_set_env(r);
    status = walk_conditions(r);
    if (status != OK) {
        return status;
    }
    status = judge(r);
    return status == OK ? OK : mcp_error_send(r, status);
}

int mcp_proxy_fixups(request_rec *r)
{
    int status;

    if (r->proxyreq != PROXYREQ_REVERSE || !mcp_proxy_is_on(r) || r->method_number == M_OPTIONS
        || r->main) {
        return DECLINED;
    }
    status = mcp_proxy_admit(r, r->prev == NULL);
    if (status == OK) {
        status = mcp_proxy_find_session(r, r->prev == NULL);
    }
    return status == OK ? DECLINED : status;
}
