/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a session in a client's name: what is sent, and what counts as the server's answer. */
#include "mcp_proxy_opening.h"

#include "cache_fixture.h"
#include "mcp_rpc.h"

#define ID "\"own-1\""
#define RESULT "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}}}"
#define GOOD "{\"jsonrpc\":\"2.0\",\"id\":" ID ",\"result\":" RESULT "}"
#define REFUSED "{\"jsonrpc\":\"2.0\",\"id\":" ID ",\"error\":{\"code\":-32602,\"message\":\"no\"}}"
#define OTHERS "{\"jsonrpc\":\"2.0\",\"id\":\"own-2\",\"result\":{}}"
#define NOTE "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}"

typedef struct answer_t {
    const char *body;
    int is_stream, is_whole;
    mcp_opening_e expected;
    const char *version;
} answer_t;

static const answer_t answers[] = {
    { GOOD, 0, 1, MCP_OPENING_GOOD, "2025-11-25" },
    { GOOD, 0, 0, MCP_OPENING_MORE, NULL },
    { REFUSED, 0, 1, MCP_OPENING_REFUSED, NULL },
    { OTHERS, 0, 1, MCP_OPENING_REFUSED, NULL },
    { "<html>", 0, 1, MCP_OPENING_REFUSED, NULL },
    { "", 0, 1, MCP_OPENING_REFUSED, NULL },
    { "{\"jsonrpc\":\"2.0\",\"id\":" ID ",\"result\":{}}", 0, 1, MCP_OPENING_GOOD, NULL },
    { "{\"jsonrpc\":\"2.0\",\"id\":" ID ",\"result\":{\"a\":[1,{}],\"protocolVersion\":3}}", 0, 1,
      MCP_OPENING_GOOD, NULL },
    { "data: " GOOD "\n\n", 1, 0, MCP_OPENING_GOOD, "2025-11-25" },
    { "event: message\r\nid: 7\r\ndata:" GOOD "\r\n\r\n", 1, 0, MCP_OPENING_GOOD, "2025-11-25" },
    { ": hello\n\nid: 1\ndata:\n\ndata: " NOTE "\n\ndata: " GOOD "\n\n", 1, 0, MCP_OPENING_GOOD,
      "2025-11-25" },
    { "data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":" ID ",\ndata:\"result\":" RESULT "}\n\n", 1, 0,
      MCP_OPENING_GOOD, "2025-11-25" },
    { "data: " GOOD "\n", 1, 0, MCP_OPENING_MORE, NULL },
    { "data: " GOOD "\n", 1, 1, MCP_OPENING_REFUSED, NULL },
    { "data: " NOTE "\n\n", 1, 0, MCP_OPENING_MORE, NULL },
    { "data: " NOTE "\n\n", 1, 1, MCP_OPENING_REFUSED, NULL },
    { "data: " REFUSED "\n\n", 1, 0, MCP_OPENING_REFUSED, NULL },
};

START_TEST(an_answer_is_told_from_everything_else)
{
    const answer_t *answer = &answers[_i];
    const char *version;

    ck_assert_int_eq(mcp_opening_read(span(answer->body), answer->is_stream, answer->is_whole, ID,
                                      pool, &version), answer->expected);
    ck_assert_pstr_eq(version, answer->version);
}
END_TEST

START_TEST(an_answer_in_pieces_is_taken_with_the_last_of_them)
{
    static const char body[] = "data: " NOTE "\n\nid: 5\ndata: " GOOD "\n\n";
    const char *version;
    apr_size_t len;

    for (len = 0; len < sizeof(body) - 1; len++) {
        mcp_span_t part = { body, len };

        ck_assert_msg(mcp_opening_read(part, 1, 0, ID, pool, &version) == MCP_OPENING_MORE, "%d",
                      (int)len);
    }
    ck_assert_int_eq(mcp_opening_read(span(body), 1, 0, ID, pool, &version), MCP_OPENING_GOOD);
}
END_TEST

START_TEST(what_is_sent_is_the_clients_own_parameters)
{
    mcp_span_t text = mcp_opening_initialize(ID, span("{\"clientInfo\":{\"name\":\"x\"}}"), pool);
    const mcp_rpc_t *rpc = mcp_rpc_parse(text.p, text.len, pool);

    ck_assert_int_eq(rpc->kind, MCP_RPC_REQUEST);
    ck_assert_str_eq(rpc->method, "initialize");
    ck_assert(mcp_span_is(rpc->id, ID));
    ck_assert(mcp_span_is(rpc->params, "{\"clientInfo\":{\"name\":\"x\"}}"));
    text = mcp_opening_initialized();
    rpc = mcp_rpc_parse(text.p, text.len, pool);
    ck_assert_int_eq(rpc->kind, MCP_RPC_NOTIFICATION);
    ck_assert_str_eq(rpc->method, "notifications/initialized");
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("opening");
    Suite *suite = suite_create("mcp_proxy_opening");

    tcase_add_checked_fixture(tests, make_pool, drop_pool);
    tcase_add_loop_test(tests, an_answer_is_told_from_everything_else, 0,
                        (int)(sizeof(answers) / sizeof(*answers)));
    tcase_add_test(tests, an_answer_in_pieces_is_taken_with_the_last_of_them);
    tcase_add_test(tests, what_is_sent_is_the_clients_own_parameters);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
