/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as the params of a call, for the key. Beside what sanitizers see: the canonical text is
 * its own canonical text, it is JSON to another strict reader, that reader finds the same value in
 * it as in the input, and what the JSON-RPC reader calls no JSON has no canonical text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <json-c/json.h>

#include "mcp_cache_json.h"
#include "mcp_rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static struct json_object *read_tree(mcp_span_t text, apr_pool_t *p)
{
    struct json_tokener *tokener = json_tokener_new_ex(2 * MCP_CACHE_JSON_DEPTH);
    const char *ended = apr_pstrcat(p, apr_pstrmemdup(p, text.p, text.len), " ", NULL);
    struct json_object *tree;

    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    tree = json_tokener_parse_ex(tokener, ended, (int)text.len + 1);
    expect(json_tokener_get_error(tokener) == json_tokener_success);
    json_tokener_free(tokener);
    return tree;
}

static void expect_same_value(mcp_span_t one, mcp_span_t other, apr_pool_t *p)
{
    struct json_object *a = read_tree(one, p), *b = read_tree(other, p);

    expect(json_object_equal(a, b));
    json_object_put(a);
    json_object_put(b);
}

static void look(mcp_span_t in, apr_pool_t *p)
{
    mcp_span_t out, again, name, value;
    mcp_cache_json_walk_t walk;
    apr_status_t rv = mcp_cache_json_canonical(in, NULL, 64 * 1024, p, &out);

    if (rv == APR_SUCCESS) {
        /* Six bytes for one at the most: a tab becomes \u0009. */
        expect(out.len <= 6 * in.len);
        expect(mcp_cache_json_canonical(out, NULL, 64 * 1024, p, &again) == APR_SUCCESS);
        expect(again.len == out.len && !memcmp(again.p, out.p, out.len));
        expect(mcp_rpc_parse(in.p, in.len, p)->error != MCP_RPC_EPARSE);
        expect_same_value(in, out, p);
    }
    if (mcp_cache_json_walk(&walk, in, p) == APR_SUCCESS) {
        while ((rv = mcp_cache_json_next(&walk, &name, &value)) == APR_SUCCESS) {
            expect(value.p >= in.p && value.p + value.len <= in.p + in.len);
            expect(value.len >= 1);
        }
        expect(rv == APR_EOF || rv == APR_EINVAL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    mcp_span_t in = {(const char *)data, size};
    apr_pool_t *p;

    if (!is_ready) {
        apr_initialize();
        is_ready = 1;
    }
    apr_pool_create(&p, NULL);
    look(in, p);
    apr_pool_destroy(p);
    return 0;
}
