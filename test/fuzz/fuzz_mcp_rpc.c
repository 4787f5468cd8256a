/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a JSON-RPC message. Beside what sanitizers see, the target holds the reader to its
 * promises: what it points to lies in the body and is JSON, what it calls a message has the parts
 * of one, and an independent strict reader takes whatever it takes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <json-c/json.h>

#include "mcp_json.h"
#include "mcp_rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct body_t {
    const char *p;
    apr_size_t len;
    apr_pool_t *pool;
} body_t;

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static void expect_json(const body_t *body, mcp_span_t span)
{
    if (!span.p) {
        expect(!span.len);
        return;
    }
    expect(span.len && span.p >= body->p && span.p + span.len <= body->p + body->len);
    expect(mcp_rpc_parse(span.p, span.len, body->pool)->error != MCP_RPC_EPARSE);
}

static void expect_text(const body_t *body, const char *text)
{
    const mcp_rpc_t *rpc;

    if (text) {
        text = apr_pstrcat(body->pool, "[", mcp_rpc_quote(text, body->pool), "]", NULL);
        rpc = mcp_rpc_parse(text, strlen(text), body->pool);
        expect(rpc->kind == MCP_RPC_BATCH && rpc->batch->nelts == 1);
    }
}

static void expect_message(const body_t *body, const mcp_rpc_t *rpc, int is_in_batch)
{
    int i;

    expect_json(body, rpc->id);
    expect_json(body, rpc->params);
    expect_json(body, rpc->arguments);
    expect_json(body, rpc->result);
    expect_json(body, rpc->failure);
    expect_text(body, rpc->method);
    expect_text(body, rpc->name);
    expect_text(body, rpc->uri);
    expect_text(body, rpc->version);
    expect((rpc->kind == MCP_RPC_INVALID) == (rpc->error != MCP_RPC_OK));
    expect((rpc->kind == MCP_RPC_INVALID) == (rpc->detail != NULL));
    expect((rpc->kind == MCP_RPC_BATCH) == (rpc->batch != NULL));
    switch (rpc->kind) {
    case MCP_RPC_REQUEST:
        expect(rpc->method && (rpc->id.p || rpc->ambiguous));
        break;
    case MCP_RPC_NOTIFICATION:
        expect(rpc->method && !rpc->id.p);
        break;
    case MCP_RPC_RESPONSE:
        expect(!rpc->method && !rpc->result.p != !rpc->failure.p);
        break;
    case MCP_RPC_BATCH:
        expect(!is_in_batch && rpc->batch->nelts > 0);
        for (i = 0; i < rpc->batch->nelts; i++) {
            expect_message(body, APR_ARRAY_IDX(rpc->batch, i, mcp_rpc_t *), 1);
        }
        break;
    case MCP_RPC_INVALID:
        expect(!is_in_batch || rpc->error == MCP_RPC_EINVALID);
        break;
    }
}

static void expect_second_opinion(const body_t *body)
{
    struct json_tokener *tokener = json_tokener_new_ex(MCP_JSON_MAX_DEPTH + 2);
    /* json-c wants to see the end of a number. */
    const char *text = apr_pstrcat(body->pool, apr_pstrmemdup(body->pool, body->p, body->len), " ",
                                   NULL);

    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    json_object_put(json_tokener_parse_ex(tokener, text, (int)body->len + 1));
    expect(json_tokener_get_error(tokener) == json_tokener_success);
    json_tokener_free(tokener);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    const mcp_rpc_t *rpc;
    body_t body;

    if (!is_ready) {
        apr_initialize();
        is_ready = 1;
    }
    apr_pool_create(&body.pool, NULL);
    body.p = (const char *)data;
    body.len = size;
    rpc = mcp_rpc_parse(body.p, body.len, body.pool);
    expect(rpc->error != MCP_RPC_EPARSE || (!rpc->id.p && !rpc->method));
    expect_message(&body, rpc, 0);
    if (rpc->error != MCP_RPC_EPARSE) {
        expect_second_opinion(&body);
    }
    apr_pool_destroy(body.pool);
    return 0;
}
