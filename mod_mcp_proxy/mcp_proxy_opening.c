/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's own initialize, in the name of a client, and the server's answer to it. */
#include "mcp_proxy_opening.h"

#include <apr_strings.h>
#include <string.h>

#include "mcp_json.h"
#include "mcp_rpc.h"
#include "mcp_sse.h"

mcp_span_t mcp_opening_initialize(const char *id, mcp_span_t params, apr_pool_t *p)
{
    const char *text = apr_pstrcat(p, "{\"jsonrpc\":\"2.0\",\"id\":", id,
                                   ",\"method\":\"initialize\",\"params\":",
                                   apr_pstrmemdup(p, params.p, params.len), "}", NULL);

    return (mcp_span_t){ text, strlen(text) };
}

mcp_span_t mcp_opening_initialized(void)
{
    static const char text[] = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";

    return (mcp_span_t){ text, sizeof(text) - 1 };
}

mcp_span_t mcp_opening_ping(void)
{
    static const char text[] = "{\"jsonrpc\":\"2.0\",\"id\":\"mcp-rescue\",\"method\":\"ping\"}";

    return (mcp_span_t){ text, sizeof(text) - 1 };
}

static const char *version_of(mcp_span_t result, apr_pool_t *p)
{
    const char *version = NULL;
    mcp_json_string_t string;
    mcp_json_nest_t nest;
    mcp_span_t name, raw;
    mcp_json_t json;

    mcp_json_init(&json, result.p, result.len, p);
    if (mcp_json_open(&json, &nest) == APR_SUCCESS && nest.is_object) {
        while (mcp_json_next(&json, &nest, &name) == APR_SUCCESS) {
            if (mcp_span_is(name, "protocolVersion") && mcp_json_peek(&json) == '"') {
                if (mcp_json_string(&json, &string) == APR_SUCCESS) {
                    version = mcp_json_decode(&string, p, NULL);
                }
            }
            else if (mcp_json_skip(&json, &raw) != APR_SUCCESS) {
                break;
            }
        }
    }
    mcp_json_done(&json);
    return version;
}

static mcp_opening_e read_message(mcp_opening_t *answer, mcp_span_t text, const char *id,
                                  apr_pool_t *p)
{
    const mcp_rpc_t *rpc = mcp_rpc_parse(text.p, text.len, p);

    if (rpc->kind != MCP_RPC_RESPONSE || !rpc->id.p || !mcp_span_is(rpc->id, id)) {
        return MCP_OPENING_MORE;
    }
    if (!rpc->result.p) {
        return MCP_OPENING_REFUSED;
    }
    answer->version = version_of(rpc->result, p);
    return MCP_OPENING_GOOD;
}

static void read_events(mcp_opening_t *answer, const char *id, apr_pool_t *p)
{
    mcp_span_t left = { answer->body.p + answer->read, answer->body.len - answer->read };
    mcp_span_t data;

    while (answer->found == MCP_OPENING_MORE && mcp_sse_take(&left, p, &data) == APR_SUCCESS) {
        if (data.len) {
            answer->found = read_message(answer, data, id, p);
        }
    }
    answer->read = answer->body.len - left.len;
}

mcp_opening_e mcp_opening_take(mcp_opening_t *answer, const char *buf, apr_size_t len,
                               const char *id, apr_pool_t *p)
{
    apr_size_t before = answer->body.len;

    if (mcp_gather(&answer->body, buf, len, MCP_OPENING_MOST, p) != APR_SUCCESS) {
        answer->found = MCP_OPENING_REFUSED;
    }
    else if (answer->is_stream && mcp_sse_has_end(answer->body.p, before, answer->body.len)) {
        read_events(answer, id, p);
    }
    return answer->found;
}

mcp_opening_e mcp_opening_end(mcp_opening_t *answer, const char *id, apr_pool_t *p)
{
    mcp_span_t whole = { answer->body.p, answer->body.len };

    if (answer->found == MCP_OPENING_MORE && !answer->is_stream && whole.p) {
        answer->found = read_message(answer, whole, id, p);
    }
    if (answer->found == MCP_OPENING_MORE) {
        answer->found = MCP_OPENING_REFUSED;
    }
    return answer->found;
}
