/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SetHandler mcp-cache: DELETE ?tool=PATTERN&user=KEY. One generation moves, or two, whatever is
 * stored; each gateway reads generations with each value, so there is nothing to spread.
 */
#include "mcp_cache.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <util_script.h>

#include "mcp_httpd_error.h"

static int is_loopback(request_rec *r)
{
    const char *ip = r->useragent_ip;

    return !strncmp(ip, "127.", 4) || !strcmp(ip, "::1") || !strncmp(ip, "::ffff:127.", 11);
}

/* What to move: a pattern has no generation of its own and takes the next larger one. */
static apr_uint64_t tag_of(const char *tool, const char *user)
{
    int every_tool = !tool || !*tool || strpbrk(tool, "*?") != NULL;

    if (user && *user) {
        return every_tool ? mcp_cache_tag("user", user, NULL)
                          : mcp_cache_tag("tool+user", tool, user);
    }
    return every_tool ? mcp_cache_tag("all", NULL, NULL) : mcp_cache_tag("tool", tool, NULL);
}

/* One that nobody knows was meant to narrow down what is forgotten. */
static int is_known(void *unused, const char *name, const char *value)
{
    return !strcmp(name, "tool") || !strcmp(name, "user");
}

static int answer(request_rec *r, const char *body)
{
    ap_set_content_type(r, "application/json");
    ap_set_content_length(r, (apr_off_t)strlen(body));
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    ap_rputs(body, r);
    return OK;
}

int mcp_cache_admin(request_rec *r)
{
    const mcp_cache_env_t *env = mcp_cache_env();
    const char *tool, *user;
    apr_table_t *arguments;
    apr_status_t rv;

    ap_discard_request_body(r);
    if (r->method_number != M_DELETE) {
        apr_table_setn(r->err_headers_out, "Allow", "DELETE");
        return mcp_error_send(r, HTTP_METHOD_NOT_ALLOWED);
    }
    if (!r->user && !is_loopback(r)) {
        return mcp_error_send(r, HTTP_FORBIDDEN);
    }
    ap_args_to_table(r, &arguments);
    if (!apr_table_do(is_known, NULL, arguments, NULL)) {
        return mcp_error_send(r, mcp_error_set(r, HTTP_BAD_REQUEST, 0,
                                               "Accepted are tool and user", NULL));
    }
    tool = apr_table_get(arguments, "tool");
    user = apr_table_get(arguments, "user");
    rv = env->store->class->invalidate(env->store, tag_of(tool, user));
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, r, MCP_LOGNO(4020)
                      "the store could not be told to forget: what was to be invalidated may still "
                      "be served once it is back");
        return mcp_error_send(r, HTTP_SERVICE_UNAVAILABLE);
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, r, MCP_LOGNO(4021)
                  "invalidated: tool %s, user %s", tool ? tool : "*", user ? user : "*");
    return answer(r, "{\"invalidated\":true}");
}
