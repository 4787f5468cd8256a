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

static mcp_opening_e read_message(mcp_span_t text, const char *id, apr_pool_t *p,
                                  const char **version)
{
    const mcp_rpc_t *rpc = mcp_rpc_parse(text.p, text.len, p);

    if (rpc->kind != MCP_RPC_RESPONSE || !rpc->id.p || !mcp_span_is(rpc->id, id)) {
        return MCP_OPENING_MORE;
    }
    if (!rpc->result.p) {
        return MCP_OPENING_REFUSED;
    }
    *version = version_of(rpc->result, p);
    return MCP_OPENING_GOOD;
}

mcp_opening_e mcp_opening_read(mcp_span_t body, int is_stream, int is_whole, const char *id,
                               apr_pool_t *p, const char **version)
{
    mcp_opening_e found = MCP_OPENING_MORE;
    mcp_span_t data;

    *version = NULL;
    if (!is_stream) {
        found = is_whole ? read_message(body, id, p, version) : MCP_OPENING_MORE;
    }
    while (is_stream && found == MCP_OPENING_MORE
           && mcp_sse_take(&body, p, &data) == APR_SUCCESS) {
        found = data.len ? read_message(data, id, p, version) : MCP_OPENING_MORE;
    }
    return found == MCP_OPENING_MORE && is_whole ? MCP_OPENING_REFUSED : found;
}
