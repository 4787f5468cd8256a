/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies are read where a limit depends on them, and parsed only where their first byte leaves a
 * question open: this is done for every POST.
 */
#include "mcp_rl_message.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <string.h>

#include "mcp_httpd_request.h"
#include "mcp_value.h"

#define MAX_BODY (4 * 1024 * 1024)
#define BODY_TIMEOUT apr_time_from_sec(30)

/* There are servers that look for "json" somewhere in the type, and some that do not
 * look at all. */
static int may_be_message(const char *type)
{
    return !type || ap_strcasestr(type, "json");
}

/* Whether somebody else could read another message, or another number of messages, out of it. */
static int is_encoded(const request_rec *r, const mcp_request_t *request)
{
    const char *type = request->type;
    const char *charset = type && strchr(type, '=') ? ap_strcasestr(type, "charset=") : NULL;

    /* A filter that has decoded the body has taken the field away. */
    return (request->coding && apr_table_get(r->headers_in, "Content-Encoding"))
        || (charset && !ap_strcasestr(charset, "utf-8"));
}

/* The first byte that says what a body is. Some readers skip a byte order mark, or take UTF-16. */
static char first_sign(const mcp_request_t *request)
{
    static const char skipped[] = " \t\r\n\xef\xbb\xbf\xfe\xff"; /* and NUL */
    apr_size_t i = 0;

    while (i < request->length && memchr(skipped, request->body[i], sizeof(skipped))) {
        i++;
    }
    return i < request->length ? request->body[i] : '\0';
}

/*
 * Whether the message must be one that everybody reads alike. What is JSON but no message, as the
 * registration of an OAuth client, is none of our business, nor is what looks like no JSON; but
 * a batch that cannot be counted is, and where the method matters, an object that cannot be read.
 */
static int must_be_clear(request_rec *r, char sign, int encoded, int decides_on_method)
{
    const mcp_rpc_t *rpc;

    if (encoded) {
        return 1;
    }
    rpc = mcp_request_rpc(r);
    if (rpc->kind == MCP_RPC_INVALID && !rpc->method) {
        return sign == '['
            || (decides_on_method && sign == '{' && rpc->error == MCP_RPC_EPARSE);
    }
    return decides_on_method;
}

int mcp_rl_message_read(request_rec *r, const mcp_rl_dir_t *dir, const mcp_rpc_t **rpc)
{
    int decides_on_tools = dir->tools && dir->tools->nelts;
    int decides_on_method = mcp_rl_rule(dir, MCP_RL_STREAMS) != NULL;
    const mcp_request_t *request;
    char sign;
    int encoded, status;

    *rpc = NULL;
    if (r->method_number != M_POST) {
        return OK;
    }
    request = mcp_request_get(r);
    if (!request->json && !decides_on_tools && !may_be_message(request->type)) {
        return OK;
    }
    status = mcp_request_read(r, MAX_BODY, BODY_TIMEOUT, 0);
    if (status != OK) {
        return status;
    }
    if (!request->length && !decides_on_tools) {
        return OK;
    }
    sign = first_sign(request);
    encoded = is_encoded(r, request);
    /* One message costs 1, whatever it says. */
    if (!decides_on_tools && !decides_on_method && sign == '{' && !encoded) {
        return OK;
    }
    if (decides_on_tools || must_be_clear(r, sign, encoded, decides_on_method)) {
        status = mcp_request_decidable(r);
    }
    *rpc = mcp_request_rpc(r);
    return status;
}

apr_int64_t mcp_rl_message_count(const mcp_rpc_t *rpc)
{
    return rpc && rpc->kind == MCP_RPC_BATCH && rpc->batch->nelts > 1 ? rpc->batch->nelts : 1;
}

static int calls_tool(const mcp_rpc_t *rpc, const char *pattern)
{
    return rpc->method && strcmp(rpc->method, "tools/call") == 0 && rpc->name
        && mcp_value_matches(pattern, rpc->name);
}

apr_int64_t mcp_rl_message_calls(const mcp_rpc_t *rpc, const char *pattern)
{
    apr_int64_t count = 0;
    int i;

    if (rpc->kind != MCP_RPC_BATCH) {
        return calls_tool(rpc, pattern);
    }
    for (i = 0; i < rpc->batch->nelts; i++) {
        count += calls_tool(APR_ARRAY_IDX(rpc->batch, i, const mcp_rpc_t *), pattern);
    }
    return count;
}

static int is_listen(const mcp_rpc_t *rpc)
{
    return rpc->method && strcmp(rpc->method, "subscriptions/listen") == 0;
}

int mcp_rl_message_stands(const request_rec *r, const mcp_rpc_t *rpc)
{
    int i;

    if (r->method_number == M_GET) {
        return !r->header_only;
    }
    if (!rpc || rpc->kind != MCP_RPC_BATCH) {
        return rpc && is_listen(rpc);
    }
    for (i = 0; i < rpc->batch->nelts; i++) {
        if (is_listen(APR_ARRAY_IDX(rpc->batch, i, const mcp_rpc_t *))) {
            return 1;
        }
    }
    return 0;
}
