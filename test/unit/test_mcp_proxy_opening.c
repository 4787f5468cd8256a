/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a session in a client's name: what is sent, and what counts as the server's answer. */
#include "mcp_proxy_opening.h"

#include <sys/resource.h>

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
    const answer_t *c = &answers[_i];
    mcp_opening_t answer = { .is_stream = c->is_stream };

    mcp_opening_take(&answer, c->body, strlen(c->body), ID, pool);
    if (c->is_whole) {
        mcp_opening_end(&answer, ID, pool);
    }
    ck_assert_int_eq(answer.found, c->expected);
    ck_assert_pstr_eq(answer.version, c->version);
}
END_TEST

START_TEST(an_answer_in_pieces_is_taken_with_the_last_of_them)
{
    static const char *const bodies[] = {
        "data: " NOTE "\n\nid: 5\ndata: " GOOD "\n\n", "\n\rdata: " NOTE "\r\rdata: " GOOD "\r\r",
        "\r\n\r\n: x\r\n\r\ndata: " NOTE "\r\n\r\ndata: " GOOD "\r\n\r"
    };
    const char *body = bodies[_i];
    mcp_opening_t answer = { .is_stream = 1 };
    apr_size_t i;

    for (i = 0; body[i + 1]; i++) {
        ck_assert_msg(mcp_opening_take(&answer, body + i, 1, ID, pool) == MCP_OPENING_MORE, "%d",
                      (int)i);
    }
    ck_assert_int_eq(mcp_opening_take(&answer, body + i, 1, ID, pool), MCP_OPENING_GOOD);
    ck_assert_str_eq(answer.version, "2025-11-25");
}
END_TEST

START_TEST(an_answer_of_many_pieces_costs_what_its_bytes_cost)
{
    static const char note[] = "data: " NOTE "\n\n", good[] = "data: " GOOD "\n\n";
    const apr_size_t most = MCP_OPENING_MOST - sizeof(good);
    mcp_opening_t answer = { .is_stream = 1 };
    struct rusage before, after;
    apr_size_t len = 0, i;

    getrusage(RUSAGE_SELF, &before);
    for (; len + sizeof(note) < most; len += sizeof(note) - 1) {
        for (i = 0; note[i]; i++) {
            ck_assert_int_eq(mcp_opening_take(&answer, note + i, 1, ID, pool), MCP_OPENING_MORE);
        }
    }
    ck_assert_int_eq(mcp_opening_take(&answer, good, sizeof(good) - 1, ID, pool),
                     MCP_OPENING_GOOD);
    getrusage(RUSAGE_SELF, &after);
    ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, 256 * 1024);
}
END_TEST

START_TEST(an_answer_that_is_too_long_is_none)
{
    mcp_opening_t answer = { .is_stream = 1 };
    char *text = apr_pcalloc(pool, MCP_OPENING_MOST);

    ck_assert_int_eq(mcp_opening_take(&answer, text, MCP_OPENING_MOST, ID, pool),
                     MCP_OPENING_MORE);
    ck_assert_int_eq(mcp_opening_take(&answer, "x", 1, ID, pool), MCP_OPENING_REFUSED);
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
    tcase_add_loop_test(tests, an_answer_in_pieces_is_taken_with_the_last_of_them, 0, 3);
    tcase_add_test(tests, an_answer_of_many_pieces_costs_what_its_bytes_cost);
    tcase_add_test(tests, an_answer_that_is_too_long_is_none);
    tcase_add_test(tests, what_is_sent_is_the_clients_own_parameters);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
