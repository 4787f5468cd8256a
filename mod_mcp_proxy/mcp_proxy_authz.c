/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Require mcp-tool, Require mcp-method. mod_authz_core asks the providers here for a verdict on
 * each rule; the hooks around it turn what it made of the verdicts into an answer, since a provider
 * can neither choose a status nor tell that it stands in a <RequireNone>. Nothing in here parks:
 * a body that is slow holds its worker, for as long as MCPProxyBodyTimeout at most.
 */
#include "mcp_proxy.h"

#include <ap_provider.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_request.h>
#include <mod_auth.h>

#include "mcp_httpd_error.h"
#include "mcp_httpd_request.h"
#include "mcp_value.h"

#define TOOL_RULE "mcp-tool"
#define METHOD_RULE "mcp-method"

typedef struct rule_t {
    int is_negated; /* stands behind "not" or in <RequireNone>: names what is refused */
    apr_array_header_t *patterns;
} rule_t;

/* How many sections and words turn the verdict of a rule around; -1: nobody can tell. */
static int count_negations(const ap_directive_t *at)
{
    int count = strncasecmp(at->args, "not", 3) == 0 && apr_isspace(at->args[3]);

    for (; at; at = at->parent) {
        if (strcasecmp(at->directive, "<AuthzProviderAlias") == 0) {
            return -1;
        }
        count += strcasecmp(at->directive, "<RequireNone") == 0;
    }
    return count;
}

static const char *parse_rule(cmd_parms *cmd, const char *args, const void **parsed)
{
    rule_t *rule = apr_pcalloc(cmd->pool, sizeof(*rule));
    int negations = count_negations(cmd->directive);
    const char *word;

    if (negations < 0) {
        return "mcp-tool and mcp-method cannot stand in <AuthzProviderAlias>: they must know "
               "whether a <RequireNone> is around them";
    }
    if (negations > 1) {
        return "mcp-tool and mcp-method can be negated once only";
    }
    rule->is_negated = negations;
    rule->patterns = apr_array_make(cmd->pool, 4, sizeof(const char *));
    while (*(word = ap_getword_conf(cmd->pool, &args))) {
        APR_ARRAY_PUSH(rule->patterns, const char *) = word;
    }
    *parsed = rule;
    return rule->patterns->nelts ? NULL
        : "mcp-tool and mcp-method need one or more patterns, as in Require mcp-tool \"search_*\"";
}

static int matches(const rule_t *rule, const char *name)
{
    int i;

    for (i = 0; i < rule->patterns->nelts; i++) {
        if (mcp_value_matches(APR_ARRAY_IDX(rule->patterns, i, const char *), name)) {
            return 1;
        }
    }
    return 0;
}

static int is_tool_call(const mcp_rpc_t *rpc)
{
    return rpc->method && strcmp(rpc->method, "tools/call") == 0;
}

/* Whether the rule refuses this message. A call without a name fits no rule. */
static int refuses_message(const rule_t *rule, int is_tool_rule, const mcp_rpc_t *rpc)
{
    if (is_tool_rule ? !is_tool_call(rpc) : !rpc->method) {
        return 0;
    }
    if (is_tool_rule && !rpc->name) {
        return 1;
    }
    return matches(rule, is_tool_rule ? rpc->name : rpc->method) == rule->is_negated;
}

/* The message that the rule refuses; NULL: none. */
static const mcp_rpc_t *refused_message(const rule_t *rule, int is_tool_rule, const mcp_rpc_t *rpc)
{
    int i;

    if (rpc->kind != MCP_RPC_BATCH) {
        return refuses_message(rule, is_tool_rule, rpc) ? rpc : NULL;
    }
    for (i = 0; i < rpc->batch->nelts; i++) {
        const mcp_rpc_t *one = APR_ARRAY_IDX(rpc->batch, i, const mcp_rpc_t *);

        if (refuses_message(rule, is_tool_rule, one)) {
            return one;
        }
    }
    return NULL;
}

static void note_refusal(request_rec *r, mcp_proxy_request_t *q, int is_tool_rule,
                         const mcp_rpc_t *rpc)
{
    const char *what = is_tool_rule ? "Tool" : "Method";
    const char *name = is_tool_rule ? rpc->name : rpc->method;

    q->refusal = apr_psprintf(r->pool, "%s %s is not allowed", what,
                              name ? name : "without a name");
}

/* What mod_authz_core must hear so that the rule, turned around or not, comes to this. */
static authz_status verdict(const rule_t *rule, int is_refused)
{
    return is_refused == rule->is_negated ? AUTHZ_GRANTED : AUTHZ_DENIED;
}

static int carries_message(const request_rec *r)
{
    return r->method_number != M_GET && r->method_number != M_DELETE
        && r->method_number != M_OPTIONS;
}

static authz_status check(request_rec *r, const rule_t *rule, int is_tool_rule)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    const mcp_rpc_t *refused;

    if (r->method_number == M_OPTIONS) {
        return verdict(rule, 0);
    }
    if (!r->user && ap_auth_type(r) && !q->judges_nobody) {
        q->judgement_is_due |= rule->is_negated;
        return AUTHZ_DENIED_NO_USER;
    }
    if (!carries_message(r)) {
        return verdict(rule, 0);
    }
    if (!q->unreadable) {
        q->unreadable = mcp_proxy_read_body(r, 0);
    }
    if (!q->unreadable) {
        q->unreadable = mcp_request_decidable(r);
    }
    if (q->unreadable) {
        return verdict(rule, 1);
    }
    refused = refused_message(rule, is_tool_rule, mcp_request_rpc(r));
    if (refused) {
        note_refusal(r, q, is_tool_rule, refused);
    }
    return verdict(rule, refused != NULL);
}

static authz_status check_tool(request_rec *r, const char *args, const void *parsed)
{
    return check(r, parsed, 1);
}

static authz_status check_method(request_rec *r, const char *args, const void *parsed)
{
    return check(r, parsed, 0);
}

static const authz_provider tool_provider = { check_tool, parse_rule };
static const authz_provider method_provider = { check_method, parse_rule };

/* What mod_authz_core has made of the verdicts becomes an answer. */
static int settle(request_rec *r, const mcp_proxy_request_t *q, int status)
{
    if (q->unreadable == AP_FILTER_ERROR) {
        return q->unreadable;
    }
    if (q->unreadable) {
        return mcp_error_send(r, q->unreadable);
    }
    if (!q->refusal || (status != HTTP_FORBIDDEN && status != HTTP_UNAUTHORIZED)) {
        return status;
    }
    mcp_proxy_set_env(r);
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(2013) "%s to %s",
                  ap_escape_logitem(r->pool, q->refusal),
                  r->user ? ap_escape_logitem(r->pool, r->user) : "anybody");
    /* mod_authz_core asks whoever is refused to log in as somebody else. */
    apr_table_unset(r->err_headers_out, "WWW-Authenticate");
    return mcp_error_send(r, mcp_error_set(r, HTTP_FORBIDDEN, 0, q->refusal, NULL));
}

int mcp_proxy_check_access(request_rec *r)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    int status;

    if (q->in_authz) {
        return DECLINED;
    }
    q->in_authz = 1;
    status = ap_run_access_checker_ex(r);
    /*
     * Nobody needs to log in, so nobody will; a rule in a <RequireNone> that waited for a login
     * has let everything pass. It must judge now.
     */
    if (status == OK && q->judgement_is_due) {
        q->judges_nobody = 1;
        status = ap_run_access_checker_ex(r);
        q->judges_nobody = 0;
    }
    q->in_authz = 0;
    return settle(r, q, status);
}

int mcp_proxy_check_user(request_rec *r)
{
    mcp_proxy_request_t *q = mcp_proxy_request(r);
    int status;

    if (q->in_authz) {
        return DECLINED;
    }
    q->in_authz = 1;
    status = ap_run_auth_checker(r);
    q->in_authz = 0;
    return settle(r, q, status);
}

void mcp_proxy_register_rules(apr_pool_t *p)
{
    ap_register_auth_provider(p, AUTHZ_PROVIDER_GROUP, TOOL_RULE, AUTHZ_PROVIDER_VERSION,
                              &tool_provider, AP_AUTH_INTERNAL_PER_CONF);
    ap_register_auth_provider(p, AUTHZ_PROVIDER_GROUP, METHOD_RULE, AUTHZ_PROVIDER_VERSION,
                              &method_provider, AP_AUTH_INTERNAL_PER_CONF);
}
