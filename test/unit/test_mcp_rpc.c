/* SPDX-License-Identifier: Apache-2.0 */
/* What a gateway learns of a JSON-RPC message, and what it refuses to have understood. */
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>

#include "mcp_rpc.h"
#include "run_suite.h"

#define COUNT(table) (sizeof(table) / sizeof(*(table)))
#define V "\"jsonrpc\":\"2.0\""
#define CALL(rest) "{" V ",\"id\":1,\"method\":\"tools/call\"" rest "}"
#define PARAMS(members) CALL(",\"params\":{" members "}")
#define PROTOCOL "io.modelcontextprotocol/protocolVersion"

static apr_pool_t *pool;

static void make_pool(void)
{
    apr_pool_create(&pool, NULL);
}

static void drop_pool(void)
{
    apr_pool_destroy(pool);
}

static apr_status_t free_bytes(void *bytes)
{
    free(bytes);
    return APR_SUCCESS;
}

/* From memory of exactly that size, so that a byte read behind the body shows under ASan. */
static const mcp_rpc_t *parse_bytes(const char *text, apr_size_t len)
{
    char *exact = malloc(len ? len : 1);

    memcpy(exact, text, len);
    apr_pool_cleanup_register(pool, exact, free_bytes, apr_pool_cleanup_null);
    return mcp_rpc_parse(exact, len, pool);
}

static const mcp_rpc_t *parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

static const char *text_of(mcp_span_t span)
{
    return span.p ? apr_pstrmemdup(pool, span.p, span.len) : "(none)";
}

static const char *or_none(const char *text)
{
    return text ? text : "(none)";
}

typedef struct kind_case_t {
    const char *text;
    mcp_rpc_kind_e kind;
    mcp_rpc_error_e error;
    const char *id;
} kind_case_t;

static const kind_case_t kind_cases[] = {
    { CALL(""), MCP_RPC_REQUEST, MCP_RPC_OK, "1" },
    { " \t\r\n" CALL("") "\n ", MCP_RPC_REQUEST, MCP_RPC_OK, "1" },
    { "{\"id\" : \"a\\n\\u00e9\" , " V ", \"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK,
      "\"a\\n\\u00e9\"" },
    { "{" V ",\"id\":9007199254740993,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK,
      "9007199254740993" },
    { "{" V ",\"id\":-0.10E+400,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK, "-0.10E+400" },
    { "{" V ",\"id\":\"\",\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK, "\"\"" },
    { "{" V ",\"id\":0,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK, "0" },
    { "{" V ",\"id\":9,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK, "9" },
    { "{" V ",\"method\":\"m\",\"params\":{\"id\":7}}", MCP_RPC_NOTIFICATION, MCP_RPC_OK,
      "(none)" },
    { "{" V ",\"method\":\"m\",\"params\":{\"id\":7},\"id\":8}", MCP_RPC_REQUEST, MCP_RPC_OK,
      "8" },
    { "{" V ",\"m\\u0065thod\":\"m\",\"\\u0069d\":2}", MCP_RPC_REQUEST, MCP_RPC_OK, "2" },
    { "{\"json\\u0072pc\":\"2\\u002e0\",\"id\":1,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK,
      "1" },
    { CALL(",\"params\":[1,2]"), MCP_RPC_REQUEST, MCP_RPC_OK, "1" },
    { CALL(",\"extra\":{\"method\":1}"), MCP_RPC_REQUEST, MCP_RPC_OK, "1" },
    { "{" V ",\"id\":5,\"result\":{}}", MCP_RPC_RESPONSE, MCP_RPC_OK, "5" },
    { "{" V ",\"id\":5,\"error\":{}}", MCP_RPC_RESPONSE, MCP_RPC_OK, "5" },
    { "{" V ",\"id\":null,\"error\":{}}", MCP_RPC_RESPONSE, MCP_RPC_OK, "(none)" },
    { "{" V ",\"error\":{}}", MCP_RPC_RESPONSE, MCP_RPC_OK, "(none)" },
    { "[" CALL("") "]", MCP_RPC_BATCH, MCP_RPC_OK, "(none)" },
    { "{}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V "}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":3}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{\"id\":3,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{\"jsonrpc\":2.0,\"id\":3,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{\"jsonrpc\":\"2\",\"id\":3,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{\"jsonrpc\":\"2.0.\",\"id\":3,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{\"jsonrpc\" : \"2.0\" ,\"id\":3,\"method\":\"m\"}", MCP_RPC_REQUEST, MCP_RPC_OK, "3" },
    { "{\"jsonrpc\":\"2.0\"\"\",\"id\":3,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EPARSE,
      "(none)" },
    { "{\"jsonrpc\":\"2.0", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { "{" V, MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { "{" V ",\"id\":null,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":true,\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":{},\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":[1],\"method\":\"m\"}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":3,\"method\":4}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{" V ",\"id\":3,\"method\":null}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { CALL(",\"params\":null"), MCP_RPC_INVALID, MCP_RPC_EINVALID, "1" },
    { CALL(",\"params\":\"x\""), MCP_RPC_INVALID, MCP_RPC_EINVALID, "1" },
    { "{" V ",\"id\":3,\"result\":1,\"error\":{}}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "3" },
    { "{" V ",\"result\":1}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":null,\"result\":1}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{" V ",\"id\":true,\"error\":1}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "{\"id\":3,\"id\":4}", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "[]", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "17", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "\"text\"", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "null", MCP_RPC_INVALID, MCP_RPC_EINVALID, "(none)" },
    { "", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { " \n", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { CALL("") CALL(""), MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { CALL("") ",", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { "[" CALL("") "] 1", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { "\xef\xbb\xbf" CALL(""), MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
    { "grant_type=refresh_token", MCP_RPC_INVALID, MCP_RPC_EPARSE, "(none)" },
};

START_TEST(tells_what_kind_of_message_it_is)
{
    const kind_case_t *c = &kind_cases[_i];
    const mcp_rpc_t *rpc = parse(c->text);

    ck_assert_msg(rpc->kind == c->kind, "kind %d of %s", rpc->kind, c->text);
    ck_assert_msg(rpc->error == c->error, "error %d of %s", rpc->error, c->text);
    ck_assert_str_eq(text_of(rpc->id), c->id);
    ck_assert_msg(!rpc->detail == (rpc->kind != MCP_RPC_INVALID), "detail of %s", c->text);
    ck_assert_msg(!rpc->batch == (rpc->kind != MCP_RPC_BATCH), "batch of %s", c->text);
    if (rpc->error == MCP_RPC_EPARSE) {
        ck_assert(!rpc->method && !rpc->params.p && !rpc->result.p);
    }
}
END_TEST

typedef struct json_case_t {
    const char *value;
    apr_size_t len;
    int is_json;
} json_case_t;

#define GOOD(text) { text, sizeof(text) - 1, 1 }
#define BAD(text) { text, sizeof(text) - 1, 0 }

static const json_case_t json_cases[] = {
    GOOD("0"), GOOD("-0"), GOOD("10"), GOOD("-1.5"), GOOD("0.0"), GOOD("1e5"), GOOD("1E-05"),
    GOOD("0e+0"), GOOD("1e1000000000"), GOOD("123456789012345678901234567890"),
    BAD("01"), BAD("-"), BAD("-01"), BAD("+1"), BAD(".5"), BAD("1."), BAD("1.e5"), BAD("1e"),
    BAD("1e+"), BAD("0x1"), BAD("1_0"), BAD("NaN"), BAD("Infinity"), BAD("-Infinity"),
    BAD("--1"), BAD("1 2"), BAD("1a"),
    GOOD("true"), GOOD("false"), GOOD("null"), GOOD(" \t\r\n null \t\r\n "),
    BAD("True"), BAD("nul"), BAD("nulll"), BAD("tru e"), BAD("undefined"), BAD("null\v"),
    BAD("trux"), BAD("falsx"), BAD("nulx"),
    BAD("null\f"), BAD("null\xc2\xa0"), BAD("\0"), BAD("null\0"),
    GOOD("\"\""), GOOD("\"abcdefgh\""), GOOD("\"abcdefghi\""),
    GOOD("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
    GOOD("\"\\u0000\\uD83D\\uDE00\\ud83d\\u00Ff\""), GOOD("\"\x7f\""),
    BAD("\"abc"), BAD("abc\""), BAD("'a'"), BAD("\"\\a\""), BAD("\"\\x41\""), BAD("\"\\0\""),
    BAD("\"\\U0041\""), BAD("\"\\u004\""), BAD("\"\\u00g0\""), BAD("\"\\u 041\""), BAD("\"\\\""),
    BAD("\"\\\0\""), BAD("\"\t\""), BAD("\"a\nb\""), BAD("\"abcdefgh\x01jklmnop\""),
    BAD("\"\x1f\""), BAD("\"\0\""), BAD("\"abcdefg\0\""), BAD("\"\\u12\""),
    GOOD("\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\""),
    GOOD("\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
    BAD("\"\x80\""), BAD("\"\x80\x80\""), BAD("\"\xbf\""), BAD("\"\xf0\x90\x80\x28\""),
    BAD("\"\xf0\x90\x28\x80\""), BAD("\"\xc0\x80\""), BAD("\"\xc1\xbf\""), BAD("\"\xc2\""),
    BAD("\"\xc2\x20\""), BAD("\"\xe0\x9f\xbf\""), BAD("\"\xe2\x82\""), BAD("\"\xed\xa0\x80\""),
    BAD("\"\xf0\x8f\xbf\xbf\""), BAD("\"\xf0\x90\x80\""), BAD("\"\xf4\x90\x80\x80\""),
    BAD("\"\xf5\x80\x80\x80\""), BAD("\"\xff\""), BAD("\"\xe2\x28\xa1\""),
    GOOD("[ 1 ,2  ,\t3,\n4 , 5 ]"), GOOD("{ \"a\" :\t1 , \"b\":  2 }"), BAD("\x01"), BAD(" \x01 1"),
    BAD("[1, \v2]"), BAD("[ "), BAD("[1 "), BAD("{ \x1f\"a\":1}"),
    GOOD("[]"), GOOD("[ ]"), GOOD("[1,[2,{}],\"]\"]"), GOOD("{}"), GOOD("{ }"),
    GOOD("{\"a\" : 1 , \"\" : {\"b\":[]}}"), GOOD("{\"a\":1,\"a\":2}"),
    BAD("["), BAD("]"), BAD("[1"), BAD("[1,"), BAD("[1,]"), BAD("[,1]"), BAD("[1,,2]"),
    BAD("[1 2]"), BAD("[1}"), BAD("{"), BAD("}"), BAD("{\"a\"}"), BAD("{\"a\":}"),
    BAD("{\"a\":1,}"), BAD("{,}"), BAD("{\"a\" 1}"), BAD("{\"a\"::1}"), BAD("{a:1}"),
    BAD("{1:1}"), BAD("{\"a\":1 \"b\":2}"), BAD("{\"a\":1]"), BAD("{null:1}"), BAD("{\"a\":1,,}"),
    BAD("{\"\xff\":1}"), BAD("1//2"), BAD("/* */1"), BAD("#"), BAD(""),
};

/* As an element, as a member of what is skipped, and in a member that is looked at. */
START_TEST(takes_what_json_is_and_nothing_else)
{
    static const char *const around[][2] = {
        { "{" V ",\"id\":1,\"method\":\"m\",\"params\":[0,", "]}" },
        { "{" V ",\"id\":1,\"method\":\"m\",\"params\":{\"name\":", "}}" },
        { "{" V ",\"id\":1,\"method\":\"m\",\"extra\":[{\"a\":", "}]}" },
        { "{" V ",\"id\":1,\"result\":", "}" },
        { "{" V ",\"method\":\"m\",\"params\":{\"_meta\":{\"" PROTOCOL "\":", "}}}" },
    };
    const json_case_t *c = &json_cases[_i];
    apr_size_t i, before, behind;
    char text[1024];

    for (i = 0; i < COUNT(around); i++) {
        const mcp_rpc_t *rpc;

        before = strlen(around[i][0]);
        behind = strlen(around[i][1]);
        memcpy(text, around[i][0], before);
        memcpy(text + before, c->value, c->len);
        memcpy(text + before + c->len, around[i][1], behind);
        rpc = parse_bytes(text, before + c->len + behind);
        ck_assert_msg(rpc->error == (c->is_json ? MCP_RPC_OK : MCP_RPC_EPARSE),
                      "error %d for %.*s (%s)", rpc->error, (int)(before + c->len + behind), text,
                      or_none(rpc->detail));
    }
}
END_TEST

typedef struct field_case_t {
    const char *text;
    const char *method, *name, *uri, *version, *params, *arguments;
} field_case_t;

#define NONE "(none)"

static const field_case_t field_cases[] = {
    { CALL(""), "tools/call", NONE, NONE, NONE, NONE, NONE },
    { PARAMS("\"name\":\"x\",\"arguments\": {\"name\":\"y\", \"uri\":2} "), "tools/call", "x", NONE,
      NONE, "{\"name\":\"x\",\"arguments\": {\"name\":\"y\", \"uri\":2} }",
      "{\"name\":\"y\", \"uri\":2}" },
    { PARAMS("\"uri\":\"file:\\/\\/\\u00e9\\ud83d\\ude00\\u0041\\u20ac\""), "tools/call", NONE,
      "file://\xc3\xa9\xf0\x9f\x98\x80" "A\xe2\x82\xac", NONE,
      "{\"uri\":\"file:\\/\\/\\u00e9\\ud83d\\ude00\\u0041\\u20ac\"}", NONE },
    { PARAMS("\"name\":\"\\\"\\\\\\b\\f\\n\\r\\t\""), "tools/call", "\"\\\b\f\n\r\t", NONE, NONE,
      "{\"name\":\"\\\"\\\\\\b\\f\\n\\r\\t\"}", NONE },
    { PARAMS("\"n\\u0061me\":\"x\""), "tools/call", "x", NONE, NONE, "{\"n\\u0061me\":\"x\"}",
      NONE },
    { PARAMS("\"_meta\":{\"a\":{},\"" PROTOCOL "\":\"2026-07-28\",\"b\":[1]},\"name\":\"x\""),
      "tools/call", "x", NONE, "2026-07-28",
      "{\"_meta\":{\"a\":{},\"" PROTOCOL "\":\"2026-07-28\",\"b\":[1]},\"name\":\"x\"}", NONE },
    { PARAMS("\"_meta\":{\"io.modelcontextprotocol\\/protocolVersion\":\"v\"}"), "tools/call", NONE,
      NONE, "v", "{\"_meta\":{\"io.modelcontextprotocol\\/protocolVersion\":\"v\"}}", NONE },
    { PARAMS("\"_meta\":{\"" PROTOCOL "\":7},\"name\":[\"x\"],\"uri\":null"), "tools/call", NONE,
      NONE, NONE, "{\"_meta\":{\"" PROTOCOL "\":7},\"name\":[\"x\"],\"uri\":null}", NONE },
    { PARAMS("\"_meta\":[],\"" PROTOCOL "\":\"x\""), "tools/call", NONE, NONE, NONE,
      "{\"_meta\":[],\"" PROTOCOL "\":\"x\"}", NONE },
    { CALL(",\"params\":[{\"name\":\"x\"}]"), "tools/call", NONE, NONE, NONE,
      "[{\"name\":\"x\"}]", NONE },
    { PARAMS("\"arguments\":null"), "tools/call", NONE, NONE, NONE, "{\"arguments\":null}",
      "null" },
    { CALL(",\"name\":\"x\",\"uri\":\"y\",\"arguments\":{}"), "tools/call", NONE, NONE, NONE, NONE,
      NONE },
};

START_TEST(finds_and_decodes_what_decisions_need)
{
    const field_case_t *c = &field_cases[_i];
    const mcp_rpc_t *rpc = parse(c->text);

    ck_assert_int_eq(rpc->kind, MCP_RPC_REQUEST);
    ck_assert_str_eq(or_none(rpc->method), c->method);
    ck_assert_str_eq(or_none(rpc->name), c->name);
    ck_assert_str_eq(or_none(rpc->uri), c->uri);
    ck_assert_str_eq(or_none(rpc->version), c->version);
    ck_assert_str_eq(text_of(rpc->params), c->params);
    ck_assert_str_eq(text_of(rpc->arguments), c->arguments);
    ck_assert(!rpc->ambiguous && !rpc->duplicates);
}
END_TEST

START_TEST(keeps_result_and_error_as_they_stand)
{
    const mcp_rpc_t *rpc = parse("{" V ",\"id\":1,\"result\": { \"a\" : [ 1e0 ] } }");

    ck_assert_str_eq(text_of(rpc->result), "{ \"a\" : [ 1e0 ] }");
    ck_assert_str_eq(text_of(rpc->failure), NONE);
    rpc = parse("{\"error\":{\"code\":-1},\"id\":1," V "}");
    ck_assert_str_eq(text_of(rpc->failure), "{\"code\":-1}");
    ck_assert_str_eq(text_of(rpc->result), NONE);
}
END_TEST

typedef struct flag_case_t {
    const char *text;
    int ambiguous, duplicates;
} flag_case_t;

static const flag_case_t flag_cases[] = {
    { CALL(""), 0, 0 },
    /* Twice. */
    { CALL(",\"id\":1"), 1, 1 },
    { CALL(",\"i\\u0064\":1"), 1, 1 },
    { CALL("," V), 1, 1 },
    { CALL(",\"method\":\"tools/call\""), 1, 1 },
    { CALL(",\"params\":{},\"params\":{}"), 1, 1 },
    { PARAMS("\"name\":\"a\",\"name\":\"a\""), 1, 1 },
    { PARAMS("\"name\":\"a\",\"n\\u0061me\":\"a\""), 1, 1 },
    { PARAMS("\"uri\":1,\"uri\":2"), 1, 1 },
    { PARAMS("\"_meta\":{},\"_meta\":{}"), 1, 1 },
    { PARAMS("\"_meta\":{\"" PROTOCOL "\":1,\"" PROTOCOL "\":2}"), 1, 1 },
    { "{" V ",\"id\":1,\"result\":1,\"result\":1}", 1, 1 },
    { "{" V ",\"id\":1,\"error\":1,\"error\":1}", 1, 1 },
    /* In another case, beside the right one or alone. */
    { CALL(",\"ID\":1"), 1, 0 },
    { CALL(",\"iD\":1"), 1, 0 },
    { CALL(",\"JSONRPC\":1"), 1, 0 },
    { CALL(",\"Method\":1"), 1, 0 },
    { CALL(",\"Params\":{}"), 1, 0 },
    { CALL(",\"P\\u0041rams\":{}"), 1, 0 },
    { CALL(",\"param\xc5\xbf\":{}"), 1, 0 },
    { CALL(",\"param\\u017f\":{}"), 1, 0 },
    { CALL(",\"\xc4\xb0" "d\":1"), 1, 0 },
    { CALL(",\"\xc4\xb1" "d\":1"), 1, 0 },
    { CALL(",\"Result\":1"), 1, 0 },
    { CALL(",\"eRror\":1"), 1, 0 },
    { "{" V ",\"ID\":1,\"method\":\"m\"}", 1, 0 },
    { "{" V ",\"id\":1,\"Method\":\"m\"}", 1, 0 },
    { PARAMS("\"Name\":\"a\""), 1, 0 },
    { PARAMS("\"name\":\"a\",\"NAME\":\"a\""), 1, 0 },
    { PARAMS("\"Uri\":\"a\""), 1, 0 },
    { PARAMS("\"_Meta\":{}"), 1, 0 },
    { PARAMS("\"_meta\":{\"IO.modelcontextprotocol/protocolVersion\":\"a\"}"), 1, 0 },
    { PARAMS("\"_meta\":{\"io.modelcontextprotocol/protocolversion\":\"a\"}"), 1, 0 },
    /* Ended early by a reader that takes NUL for an end. */
    { CALL(",\"method\\u0000\":\"x\""), 1, 0 },
    { CALL(",\"method\\u0000x\":\"x\""), 1, 0 },
    { PARAMS("\"name\\u0000x\":\"x\""), 1, 0 },
    { CALL(",\"x\\u0000method\":\"x\""), 0, 0 },
    { PARAMS("\"name\":\"a\\u0000\""), 1, 0 },
    { PARAMS("\"uri\":\"\\u0000a\""), 1, 0 },
    { PARAMS("\"_meta\":{\"" PROTOCOL "\":\"\\u0000\"}"), 1, 0 },
    { "{" V ",\"id\":1,\"method\":\"tools\\u0000\"}", 1, 0 },
    { "{" V ",\"id\":\"\\u0000\",\"method\":\"m\"}", 1, 0 },
    { "{\"jsonrpc\":\"2.0\\u0000\",\"id\":1,\"method\":\"m\"}", 1, 0 },
    { PARAMS("\"arguments\":{\"a\":\"\\u0000\"}"), 0, 0 },
    /* Marked early, with nothing wrong behind it. */
    { PARAMS("\"name\":\"\\u0000\",\"_meta\":{\"a\":1}"), 1, 0 },
    { PARAMS("\"Arguments\":{},\"arguments\":{}"), 0, 1 },
    { "{" V ",\"Method\":1,\"id\":\"x\",\"method\":\"m\"}", 1, 0 },
    /* Half a pair. */
    { PARAMS("\"name\":\"\\ud800\""), 1, 0 },
    { PARAMS("\"name\":\"\\udc00\""), 1, 0 },
    { PARAMS("\"name\":\"\\ude00\\ud83d\""), 1, 0 },
    { PARAMS("\"name\":\"\\ud83d\\ud83d\\ude00\""), 1, 0 },
    { PARAMS("\"name\":\"\\ud83d\\n\""), 1, 0 },
    { PARAMS("\"uri\":\"\\ud83d\""), 1, 0 },
    { PARAMS("\"uri\":\"\\udbff\""), 1, 0 },
    { PARAMS("\"uri\":\"\\udfff\""), 1, 0 },
    { PARAMS("\"uri\":\"\\u0041\\udc00\""), 1, 0 },
    { PARAMS("\"uri\":\"\\ud83dabde00\""), 1, 0 },
    { PARAMS("\"uri\":\"\\ud83d\\nde00\""), 1, 0 },
    { PARAMS("\"uri\":\"\\ud7ff\\ue000\\udbff\\udfff\""), 0, 0 },
    { "{" V ",\"id\":1,\"method\":\"\\ud83d\"}", 1, 0 },
    { PARAMS("\"name\":\"\\ud83d\\ude00\""), 0, 0 },
    { PARAMS("\"arguments\":{\"a\":\"\\ud83d\"}"), 0, 0 },
    /* Two kinds at once. */
    { CALL(",\"result\":1"), 1, 0 },
    { CALL(",\"error\":1"), 1, 0 },
    /* Names that only look alike, or stand elsewhere. */
    { CALL(",\"ids\":1,\"i\":1,\"\":1,\"method \":1,\"Name\":1,\"URI\":1"), 0, 0 },
    { CALL(",\"x\":{\"Method\":1,\"id\":1,\"ID\":1}"), 0, 0 },
    { PARAMS("\"Method\":1,\"ID\":1,\"arguments\":{\"Name\":1,\"name\":1}"), 0, 0 },
    { PARAMS("\"_meta\":{\"Name\":1,\"name\":2}"), 0, 0 },
    /* Doubles elsewhere. */
    { CALL(",\"x\":1,\"x\":2"), 0, 1 },
    { CALL(",\"x\":1,\"X\":2"), 0, 0 },
    { PARAMS("\"arguments\":{\"a\":{\"b\":1,\"c\":1,\"b\":1}}"), 0, 1 },
    { PARAMS("\"arguments\":{\"a\":[{\"b\":1},{\"b\":1}],\"b\":{\"a\":1}}"), 0, 0 },
    { PARAMS("\"arguments\":{\"\\u0061\":1,\"a\":1}"), 0, 1 },
    { PARAMS("\"arguments\":{\"\":1,\"\":1}"), 0, 1 },
    { PARAMS("\"arguments\":{\"\xc3\xa9\":1,\"\\u00e9\":1}"), 0, 1 },
    { PARAMS("\"arguments\":{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\ude00\":1}"), 0, 1 },
    { PARAMS("\"arguments\":{\"a\\u0000b\":1,\"a\\u0000c\":1}"), 0, 0 },
    { PARAMS("\"arguments\":{},\"arguments\":{}"), 0, 1 },
    { PARAMS("\"Arguments\":{}"), 0, 1 },
    { "{" V ",\"id\":1,\"result\":{\"a\":1,\"a\":1}}", 0, 1 },
};

START_TEST(marks_what_two_readers_could_read_differently)
{
    const flag_case_t *c = &flag_cases[_i];
    const mcp_rpc_t *rpc = parse(c->text);

    ck_assert_msg(rpc->error != MCP_RPC_EPARSE, "%s: %s", c->text, or_none(rpc->detail));
    ck_assert_msg(rpc->ambiguous == (unsigned)c->ambiguous, "ambiguous of %s", c->text);
    ck_assert_msg(rpc->duplicates == (unsigned)c->duplicates, "duplicates of %s", c->text);
}
END_TEST

START_TEST(gives_no_id_where_two_could_be_meant)
{
    ck_assert_str_eq(text_of(parse(CALL(",\"id\":2"))->id), NONE);
    ck_assert_str_eq(text_of(parse(CALL(",\"Id\":2"))->id), NONE);
    ck_assert_str_eq(text_of(parse(CALL(",\"id\":2,\"method\":\"x\""))->id), NONE);
    ck_assert_str_eq(text_of(parse(CALL(",\"Id\":2,\"Method\":\"x\""))->id), NONE);
    ck_assert_int_eq(parse(CALL(",\"id\":2"))->kind, MCP_RPC_REQUEST);
    ck_assert_str_eq(text_of(parse(CALL(",\"Method\":2"))->id), "1");
}
END_TEST

START_TEST(notices_retries_and_tasks)
{
    const mcp_rpc_t *rpc = parse(PARAMS("\"name\":\"a\""));

    ck_assert(!rpc->has_input_responses && !rpc->has_request_state && !rpc->has_task);
    rpc = parse(PARAMS("\"inputResponses\":{}"));
    ck_assert(rpc->has_input_responses && !rpc->has_request_state && !rpc->has_task);
    rpc = parse(PARAMS("\"requestState\":null"));
    ck_assert(!rpc->has_input_responses && rpc->has_request_state && !rpc->has_task);
    rpc = parse(PARAMS("\"Task\":{}"));
    ck_assert(!rpc->has_input_responses && !rpc->has_request_state && rpc->has_task);
    rpc = parse(PARAMS("\"arguments\":{\"inputResponses\":1,\"requestState\":1,\"task\":1}"));
    ck_assert(!rpc->has_input_responses && !rpc->has_request_state && !rpc->has_task);
}
END_TEST

START_TEST(reads_a_batch_message_by_message)
{
    const mcp_rpc_t *rpc = parse("[" CALL("") ",{" V ",\"method\":\"n\"},[" CALL("") "],7,"
                                 "{\"id\":3},{" V ",\"id\":4,\"result\":[]}]");
    const mcp_rpc_t **one;

    ck_assert_int_eq(rpc->kind, MCP_RPC_BATCH);
    ck_assert_int_eq(rpc->error, MCP_RPC_OK);
    ck_assert_int_eq(rpc->batch->nelts, 6);
    one = (const mcp_rpc_t **)rpc->batch->elts;
    ck_assert_int_eq(one[0]->kind, MCP_RPC_REQUEST);
    ck_assert_str_eq(one[0]->method, "tools/call");
    ck_assert_int_eq(one[1]->kind, MCP_RPC_NOTIFICATION);
    ck_assert_int_eq(one[2]->kind, MCP_RPC_INVALID);
    ck_assert_int_eq(one[2]->error, MCP_RPC_EINVALID);
    ck_assert_int_eq(one[3]->kind, MCP_RPC_INVALID);
    ck_assert_int_eq(one[4]->kind, MCP_RPC_INVALID);
    ck_assert_str_eq(text_of(one[4]->id), "3");
    ck_assert_int_eq(one[5]->kind, MCP_RPC_RESPONSE);
    ck_assert(!rpc->ambiguous && !rpc->duplicates);
}
END_TEST

START_TEST(marks_a_batch_for_each_of_its_messages)
{
    const mcp_rpc_t *rpc = parse("[" CALL("") "," CALL(",\"x\":1,\"x\":2") "," CALL("") "]");

    ck_assert(rpc->duplicates && !rpc->ambiguous);
    ck_assert(!APR_ARRAY_IDX(rpc->batch, 0, mcp_rpc_t *)->duplicates);
    ck_assert(APR_ARRAY_IDX(rpc->batch, 1, mcp_rpc_t *)->duplicates);
    ck_assert(!APR_ARRAY_IDX(rpc->batch, 2, mcp_rpc_t *)->duplicates);
    rpc = parse("[" CALL(",\"ID\":1") "," CALL("") "]");
    ck_assert(rpc->ambiguous && !rpc->duplicates);
    ck_assert(!APR_ARRAY_IDX(rpc->batch, 1, mcp_rpc_t *)->ambiguous);
}
END_TEST

static const mcp_rpc_t *parse_batch_of(int count)
{
    char *text = malloc(2 * (apr_size_t)count + 1);
    const mcp_rpc_t *rpc;
    int i;

    for (i = 0; i < count; i++) {
        text[2 * i] = i ? ',' : '[';
        text[2 * i + 1] = '0';
    }
    text[2 * count] = ']';
    rpc = parse_bytes(text, 2 * (apr_size_t)count + 1);
    free(text);
    return rpc;
}

START_TEST(refuses_a_batch_of_too_many_messages)
{
    const mcp_rpc_t *rpc = parse_batch_of(MCP_RPC_MAX_BATCH);

    ck_assert_int_eq(rpc->kind, MCP_RPC_BATCH);
    ck_assert_int_eq(rpc->batch->nelts, MCP_RPC_MAX_BATCH);
    rpc = parse_batch_of(MCP_RPC_MAX_BATCH + 1);
    ck_assert_int_eq(rpc->kind, MCP_RPC_INVALID);
    ck_assert_int_eq(rpc->error, MCP_RPC_EINVALID);
}
END_TEST

START_TEST(takes_no_part_of_a_message_for_the_whole)
{
    static const char whole[] = "[{" V ",\"id\":\"\\u00e9\",\"method\":\"m\",\"params\":{\"name\":"
        "\"\xc3\xa9\",\"_meta\":{\"" PROTOCOL "\":\"v\"},\"arguments\":[-1.5e+3,true,null,{}]}}]";
    apr_size_t len;

    ck_assert_int_eq(parse(whole)->kind, MCP_RPC_BATCH);
    for (len = 0; len < sizeof(whole) - 1; len++) {
        const mcp_rpc_t *rpc = parse_bytes(whole, len);

        ck_assert_msg(rpc->error == MCP_RPC_EPARSE, "error %d after %d bytes", rpc->error,
                      (int)len);
    }
}
END_TEST

START_TEST(takes_no_nul_behind_the_message)
{
    static const char text[] = CALL("");

    ck_assert_int_eq(parse_bytes(text, sizeof(text))->error, MCP_RPC_EPARSE);
}
END_TEST

typedef struct quote_case_t {
    const char *text, *quoted;
} quote_case_t;

static const quote_case_t quote_cases[] = {
    { "", "\"\"" },
    { "plain text", "\"plain text\"" },
    { "a\"b\\c/d", "\"a\\\"b\\\\c/d\"" },
    { "\x01\n\t\x1f\x7f", "\"\\u0001\\u000a\\u0009\\u001f\x7f\"" },
    { "\xc3\xa9\xf0\x9f\x98\x80", "\"\xc3\xa9\xf0\x9f\x98\x80\"" },
    { "\xff", "\"\xef\xbf\xbd\"" },
    { "a\xc3", "\"a\xef\xbf\xbd\"" },
    { "\xc3\"", "\"\xef\xbf\xbd\\\"\"" },
    { "\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
};

START_TEST(quotes_any_text_as_a_json_string)
{
    const quote_case_t *c = &quote_cases[_i];
    const char *quoted = mcp_rpc_quote(c->text, pool);

    ck_assert_str_eq(quoted, c->quoted);
    ck_assert_int_eq(parse(apr_pstrcat(pool, "[", quoted, "]", NULL))->kind, MCP_RPC_BATCH);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);

    tcase_add_checked_fixture(tcase, make_pool, drop_pool);
    suite_add_tcase(suite, tcase);
    return tcase;
}

static Suite *make_suite(void)
{
    Suite *suite = suite_create("mcp_rpc");
    TCase *tcase;

    tcase = make_case(suite, "kinds");
    tcase_add_loop_test(tcase, tells_what_kind_of_message_it_is, 0, COUNT(kind_cases));
    tcase = make_case(suite, "syntax");
    tcase_add_loop_test(tcase, takes_what_json_is_and_nothing_else, 0, COUNT(json_cases));
    tcase_add_test(tcase, takes_no_part_of_a_message_for_the_whole);
    tcase_add_test(tcase, takes_no_nul_behind_the_message);
    tcase = make_case(suite, "fields");
    tcase_add_loop_test(tcase, finds_and_decodes_what_decisions_need, 0, COUNT(field_cases));
    tcase_add_test(tcase, keeps_result_and_error_as_they_stand);
    tcase_add_test(tcase, notices_retries_and_tasks);
    tcase = make_case(suite, "ambiguity");
    tcase_add_loop_test(tcase, marks_what_two_readers_could_read_differently, 0,
                        COUNT(flag_cases));
    tcase_add_test(tcase, gives_no_id_where_two_could_be_meant);
    tcase = make_case(suite, "batches");
    tcase_add_test(tcase, reads_a_batch_message_by_message);
    tcase_add_test(tcase, marks_a_batch_for_each_of_its_messages);
    tcase_add_test(tcase, refuses_a_batch_of_too_many_messages);
    tcase = make_case(suite, "quoting");
    tcase_add_loop_test(tcase, quotes_any_text_as_a_json_string, 0, COUNT(quote_cases));
    return suite;
}

int main(void)
{
    return run_suite(make_suite());
}
