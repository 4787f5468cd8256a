/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to tools/list, read once it is whole. What is not as it should be says nothing: a tool
 * only reads if its server says so without any doubt.
 */
#include "mcp_proxy_tools.h"

#include "mcp_json.h"
#include "mcp_rpc.h"
#include "mcp_sse.h"

apr_status_t mcp_gather(mcp_gather_t *to, const char *buf, apr_size_t len, apr_size_t most,
                        apr_pool_t *p)
{
    apr_size_t needed = to->len + len;

    if (needed > most) {
        return APR_ENOSPC;
    }
    if (needed > to->room) {
        char *grown = apr_palloc(p, 2 * needed);

        if (to->len) {
            memcpy(grown, to->p, to->len);
        }
        to->p = grown;
        to->room = 2 * needed;
    }
    memcpy(to->p + to->len, buf, len);
    to->len = needed;
    return APR_SUCCESS;
}

static void read_annotations(mcp_json_t *json, int *is_read_only)
{
    mcp_json_nest_t nest;
    mcp_span_t name, raw;

    if (mcp_json_open(json, &nest) != APR_SUCCESS) {
        return;
    }
    while (mcp_json_next(json, &nest, &name) == APR_SUCCESS) {
        int is_hint = mcp_span_is(name, "readOnlyHint");

        if (mcp_json_skip(json, &raw) != APR_SUCCESS) {
            return;
        }
        *is_read_only |= is_hint && mcp_span_is(raw, "true");
    }
}

static void read_tool(mcp_json_t *json, mcp_tools_fn *fn, void *baton, apr_pool_t *p)
{
    mcp_json_string_t string = { { NULL, 0 }, 0, 0, 0 };
    int is_read_only = 0, before = json->duplicates;
    mcp_json_nest_t nest;
    mcp_span_t name, raw;
    apr_status_t rv = mcp_json_open(json, &nest);

    while (rv == APR_SUCCESS && (rv = mcp_json_next(json, &nest, &name)) == APR_SUCCESS) {
        if (mcp_span_is(name, "name") && mcp_json_peek(json) == '"') {
            rv = mcp_json_string(json, &string);
        }
        else if (mcp_span_is(name, "annotations") && mcp_json_peek(json) == '{') {
            read_annotations(json, &is_read_only);
        }
        else {
            rv = mcp_json_skip(json, &raw);
        }
    }
    if (rv == APR_EOF && string.raw.p && !string.has_nul) {
        fn(baton, mcp_json_decode(&string, p, NULL), is_read_only && json->duplicates == before);
    }
}

/* The values of an array, one by one. */
static void read_tools(mcp_json_t *json, mcp_tools_fn *fn, void *baton, apr_pool_t *p)
{
    mcp_json_nest_t nest;
    mcp_span_t none, raw;
    int count = 0;

    if (mcp_json_open(json, &nest) != APR_SUCCESS) {
        return;
    }
    while (mcp_json_next(json, &nest, &none) == APR_SUCCESS) {
        if (mcp_json_peek(json) == '{' && count++ < MCP_TOOLS_MOST) {
            read_tool(json, fn, baton, p);
        }
        else if (mcp_json_skip(json, &raw) != APR_SUCCESS) {
            return;
        }
    }
}

static void read_result(mcp_span_t result, mcp_tools_fn *fn, void *baton, apr_pool_t *p)
{
    mcp_json_nest_t nest;
    mcp_span_t name, raw;
    mcp_json_t json;
    apr_status_t rv;

    mcp_json_init(&json, result.p, result.len, p);
    rv = mcp_json_peek(&json) == '{' ? mcp_json_open(&json, &nest) : APR_EGENERAL;
    while (rv == APR_SUCCESS && (rv = mcp_json_next(&json, &nest, &name)) == APR_SUCCESS) {
        if (mcp_span_is(name, "tools") && mcp_json_peek(&json) == '[') {
            read_tools(&json, fn, baton, p);
        }
        else {
            rv = mcp_json_skip(&json, &raw);
        }
    }
    mcp_json_done(&json);
}

/* Whether this was the answer. */
static int read_message(mcp_span_t text, mcp_span_t id, mcp_tools_fn *fn, void *baton,
                        apr_pool_t *p)
{
    const mcp_rpc_t *rpc = mcp_rpc_parse(text.p, text.len, p);

    if (rpc->kind != MCP_RPC_RESPONSE || rpc->ambiguous || rpc->id.len != id.len
        || memcmp(rpc->id.p, id.p, id.len) != 0) {
        return 0;
    }
    if (rpc->result.p) {
        read_result(rpc->result, fn, baton, p);
    }
    return 1;
}

void mcp_tools_read(mcp_span_t body, int is_stream, mcp_span_t id, mcp_tools_fn *fn, void *baton,
                    apr_pool_t *p)
{
    int is_found = 0;
    mcp_span_t data;

    if (!is_stream) {
        read_message(body, id, fn, baton, p);
    }
    while (is_stream && !is_found && mcp_sse_take(&body, p, &data) == APR_SUCCESS) {
        is_found = data.len && read_message(data, id, fn, baton, p);
    }
}
