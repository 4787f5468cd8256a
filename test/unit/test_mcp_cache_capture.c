/* SPDX-License-Identifier: Apache-2.0 */
/* Which answers may be stored. Each case is fed whole, and byte by byte. */
#include "mcp_cache_capture.h"

#include "cache_fixture.h"

#define MAX 200000

static int changes[4];
static char changed_uri[64];

static void note_change(void *baton, mcp_cache_change_e what, const char *uri)
{
    changes[what]++;
    apr_cpystrn(changed_uri, uri ? uri : "", sizeof(changed_uri));
}

static mcp_cache_capture_t *new_capture(int is_stream, int by_hints)
{
    mcp_cache_capture_rule_t rule = {is_stream, span("7"), MAX, by_hints, note_change, NULL};

    return mcp_cache_capture_create(&rule);
}

static mcp_cache_answer_e judge(int is_stream, const char *body, apr_size_t step,
                                mcp_cache_answer_t *answer)
{
    mcp_cache_capture_t *c = new_capture(is_stream, 1);
    apr_size_t at, len = strlen(body);
    mcp_cache_answer_e verdict;
    static char copy[1024];

    for (at = 0; at < len; at += step) {
        mcp_cache_capture_feed(c, body + at, len - at < step ? len - at : step);
    }
    verdict = mcp_cache_capture_judge(c, 1, answer);
    if (verdict == MCP_CACHE_ANSWER_STORE && answer->result.len < sizeof(copy)) {
        memcpy(copy, answer->result.p, answer->result.len);
        answer->result.p = copy;
    }
    mcp_cache_capture_destroy(c);
    return verdict;
}

#define OK_ANSWER "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"x\":1}}"
#define PROGRESS "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"
#define STORE MCP_CACHE_ANSWER_STORE
#define REFUSE MCP_CACHE_ANSWER_REFUSE
#define BROKEN MCP_CACHE_ANSWER_BROKEN
#define RESULT(text) "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":" text "}"

static const struct {
    const char *body;
    mcp_cache_answer_e expected;
} json_cases[] = {
    {OK_ANSWER, STORE},
    {" " OK_ANSWER "\r\n", STORE},
    {RESULT("{\"isError\":false}"), STORE},
    {RESULT("{\"resultType\":\"complete\"}"), STORE},
    {RESULT("{\"content\":[{\"isError\":true}]}"), STORE},
    {RESULT("{}"), STORE},
    {RESULT("{\"isError\":true}"), REFUSE},
    {RESULT("{\"is\\u0045rror\":true}"), REFUSE},
    {RESULT("{\"isError\":1}"), REFUSE},
    {RESULT("{\"isError\":false,\"isError\":true}"), REFUSE},
    {RESULT("{\"resultType\":\"input_required\"}"), REFUSE},
    {RESULT("{\"resultType\":\"other\"}"), REFUSE},
    {RESULT("{\"resultType\":1}"), REFUSE},
    {RESULT("{\"task\":{\"taskId\":\"1\"}}"), REFUSE},
    {RESULT("null"), REFUSE},
    {RESULT("[]"), REFUSE},
    {RESULT("\"text\""), REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{}}", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":\"7\",\"result\":{}}", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":7.0,\"result\":{}}", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":{}}", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":7,\"id\":7,\"result\":{}}", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":-32603,\"message\":\"m\"}}", REFUSE},
    {"[" OK_ANSWER "]", REFUSE},
    {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"x\"}", REFUSE},
    {OK_ANSWER OK_ANSWER, BROKEN},
    {"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"x\":1}", BROKEN},
    {"", BROKEN},
    {"\xef\xbb\xbf" OK_ANSWER, BROKEN},
};

START_TEST(judges_a_json_body)
{
    mcp_cache_answer_t answer;

    ck_assert_msg(judge(0, json_cases[_i].body, 100000, &answer) == json_cases[_i].expected
                  && judge(0, json_cases[_i].body, 1, &answer) == json_cases[_i].expected,
                  "%s", json_cases[_i].body);
}
END_TEST

static const struct {
    const char *body;
    mcp_cache_answer_e expected;
} stream_cases[] = {
    {"data: " OK_ANSWER "\n\n", STORE},
    {"data:" OK_ANSWER "\r\n\r\n", STORE},
    {"data: " OK_ANSWER "\r\r", STORE},
    {"\xef\xbb\xbf" "data: " OK_ANSWER "\n\n", STORE},
    {": hello\n\nevent: message\nid: 1\nretry: 5\ndata: " OK_ANSWER "\n\n: bye\n\n", STORE},
    {"id: 1\ndata: \n\n" PROGRESS PROGRESS "data: " OK_ANSWER "\n\n", STORE},
    {"data: {\"jsonrpc\":\"2.0\",\ndata: \"id\":7,\"result\":\ndata: {}}\n\n", STORE},
    {"data: " OK_ANSWER "\n\n" PROGRESS, STORE},
    {"data: " OK_ANSWER "\n", BROKEN},
    {"data: " OK_ANSWER, BROKEN},
    {"data: " OK_ANSWER "\n\ndata: x", BROKEN},
    {"", BROKEN},
    {": only a comment\n\n", BROKEN},
    {PROGRESS, BROKEN},
    {"data: " OK_ANSWER "\n\ndata: " OK_ANSWER "\n\n", REFUSE},
    {"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sampling/createMessage\"}\n\ndata: "
     OK_ANSWER "\n\n", REFUSE},
    {"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\ndata: "
     OK_ANSWER "\n\n", REFUSE},
    {"data: nonsense\n\ndata: " OK_ANSWER "\n\n", REFUSE},
    {"data: " RESULT("{\"isError\":true}") "\n\n", REFUSE},
    {"data: {\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}\n\ndata: " OK_ANSWER "\n\n", REFUSE},
    {"event: endpoint\ndata: /message?sessionId=1\n\n", REFUSE},
};

START_TEST(judges_an_event_stream)
{
    mcp_cache_answer_t answer;

    ck_assert_msg(judge(1, stream_cases[_i].body, 100000, &answer) == stream_cases[_i].expected
                  && judge(1, stream_cases[_i].body, 1, &answer) == stream_cases[_i].expected,
                  "%s", stream_cases[_i].body);
}
END_TEST

START_TEST(takes_the_result_byte_for_byte)
{
    mcp_cache_answer_t answer;

    ck_assert_int_eq(judge(0, "{\"result\": {\"n\" : 1e2,\n \"u\":\"\\u00e9\"} ,\"id\":7,"
                           "\"jsonrpc\":\"2.0\"}", 3, &answer), STORE);
    ck_assert_int_eq(answer.result.len, strlen("{\"n\" : 1e2,\n \"u\":\"\\u00e9\"}"));
    ck_assert(!memcmp(answer.result.p, "{\"n\" : 1e2,\n \"u\":\"\\u00e9\"}", answer.result.len));
    ck_assert(answer.newlines);
}
END_TEST

START_TEST(a_body_that_http_says_is_cut_is_broken)
{
    mcp_cache_capture_t *c = new_capture(0, 0);
    mcp_cache_answer_t answer;

    mcp_cache_capture_feed(c, OK_ANSWER, strlen(OK_ANSWER));
    ck_assert_int_eq(mcp_cache_capture_judge(c, 0, &answer), BROKEN);
    mcp_cache_capture_destroy(c);
}
END_TEST

static const struct {
    const char *hints;
    apr_int64_t ttl_ms;
    int is_public;
} hint_cases[] = {
    {"\"ttlMs\":5000,\"cacheScope\":\"private\"", 5000, 0},
    {"\"cacheScope\":\"public\", \"ttlMs\" : 1", 1, 1},
    {"\"ttlMs\":-1", 0, 0}, {"\"ttlMs\":1.5", 0, 0}, {"\"ttlMs\":\"5\"", 0, 0},
    {"\"ttlMs\":1e3", 0, 0}, {"\"ttlMs\":null", 0, 0}, {"\"x\":1", 0, 0},
    {"\"ttlMs\":0,\"cacheScope\":\"PUBLIC\"", 0, 0},
    {"\"cacheScope\":\"\",\"ttlMs\":9", 9, 0},
};

START_TEST(reads_what_the_server_says_of_its_result)
{
    const char *body = apr_psprintf(pool, RESULT("{\"tools\":[],%s}"), hint_cases[_i].hints);
    mcp_cache_answer_t answer;

    ck_assert_int_eq(judge(0, body, 1000, &answer), STORE);
    ck_assert_int_eq(answer.ttl_ms, hint_cases[_i].ttl_ms);
    ck_assert_int_eq(answer.is_public, hint_cases[_i].is_public);
    if (hint_cases[_i].ttl_ms) {
        ck_assert_int_eq(atoi(answer.result.p + answer.hint_at), hint_cases[_i].ttl_ms);
    }
}
END_TEST

START_TEST(a_huge_ttl_does_not_wrap_round)
{
    mcp_cache_answer_t answer;

    judge(0, RESULT("{\"ttlMs\":99999999999999999999999999}"), 1000, &answer);
    ck_assert(answer.ttl_ms > APR_INT64_MAX / 1000);
}
END_TEST

/* A result of so many bytes, behind many notifications that are dropped as they come. */
static mcp_cache_answer_e judge_size(int is_stream, apr_size_t size, apr_size_t *most_held)
{
    static const char begin[] = "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"x\":\"";
    mcp_cache_capture_t *c = new_capture(is_stream, 0);
    char *filler = memset(apr_palloc(pool, size), 'x', size);
    mcp_cache_answer_t answer;
    mcp_cache_answer_e verdict;
    int i;

    *most_held = 0;
    for (i = 0; is_stream && i < 20000; i++) {
        mcp_cache_capture_feed(c, PROGRESS, strlen(PROGRESS));
        *most_held = mcp_cache_capture_held(c) > *most_held ? mcp_cache_capture_held(c)
                                                            : *most_held;
    }
    if (is_stream) {
        mcp_cache_capture_feed(c, "data: ", 6);
    }
    mcp_cache_capture_feed(c, begin, sizeof(begin) - 1);
    mcp_cache_capture_feed(c, filler, size - 8);
    mcp_cache_capture_feed(c, "\"}}", 3);
    mcp_cache_capture_feed(c, "\n\n", 2);
    verdict = mcp_cache_capture_judge(c, 1, &answer);
    mcp_cache_capture_destroy(c);
    return verdict;
}

START_TEST(keeps_results_up_to_the_limit_and_no_stream_of_notifications)
{
    apr_size_t held;

    ck_assert_int_eq(judge_size(_i, MAX, &held), STORE);
    ck_assert_int_eq(judge_size(_i, MAX + 1, &held), REFUSE);
    ck_assert_int_eq(judge_size(_i, 3 * MAX, &held), REFUSE);
    ck_assert(held < 10000);
}
END_TEST

START_TEST(tells_what_has_changed_also_where_no_answer_is_wanted)
{
    static const char stream[] =
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n"
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":"
        "{\"uri\":\"file:///a\"}}\n\n"
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"other\",\"params\":{\"x\":\"notifications/prompts/"
        "list_changed\"}}\n\n";
    mcp_cache_capture_rule_t rule = {1, {NULL, 0}, MAX, 0, note_change, NULL};
    mcp_cache_capture_t *c = mcp_cache_capture_create(&rule);
    char *filler = memset(apr_palloc(pool, 100000), 'x', 100000);

    memset(changes, 0, sizeof(changes));
    mcp_cache_capture_feed(c, "data: ", 6);
    mcp_cache_capture_feed(c, filler, 100000); /* too long to look at */
    mcp_cache_capture_feed(c, "\n\n", 2);
    ck_assert(!mcp_cache_capture_is_over(c));
    mcp_cache_capture_feed(c, stream, sizeof(stream) - 1);
    ck_assert_int_eq(changes[MCP_CACHE_CHANGED_TOOLS], 1);
    ck_assert_int_eq(changes[MCP_CACHE_CHANGED_RESOURCE], 1);
    ck_assert_int_eq(changes[MCP_CACHE_CHANGED_PROMPTS], 0);
    ck_assert_str_eq(changed_uri, "file:///a");
    ck_assert(mcp_cache_capture_held(c) < 50000);
    mcp_cache_capture_destroy(c);
}
END_TEST

START_TEST(the_id_is_the_same_whatever_its_escapes)
{
    mcp_cache_capture_rule_t rule = {0, span("\"a\\u0022b\""), MAX, 0, NULL, NULL};
    mcp_cache_capture_t *c = mcp_cache_capture_create(&rule);
    static const char body[] = "{\"jsonrpc\":\"2.0\",\"id\":\"\\u0061\\\"b\",\"result\":{}}";
    mcp_cache_answer_t answer;

    mcp_cache_capture_feed(c, body, sizeof(body) - 1);
    ck_assert_int_eq(mcp_cache_capture_judge(c, 1, &answer), STORE);
    mcp_cache_capture_destroy(c);
}
END_TEST

int main(void)
{
    TCase *answers = tcase_create("answers");
    Suite *suite = suite_create("mcp_cache_capture");

    tcase_add_checked_fixture(answers, make_pool, drop_pool);
    tcase_set_timeout(answers, 60);
    tcase_add_loop_test(answers, judges_a_json_body, 0, sizeof(json_cases) / sizeof(*json_cases));
    tcase_add_loop_test(answers, judges_an_event_stream, 0,
                        sizeof(stream_cases) / sizeof(*stream_cases));
    tcase_add_test(answers, takes_the_result_byte_for_byte);
    tcase_add_test(answers, a_body_that_http_says_is_cut_is_broken);
    tcase_add_loop_test(answers, reads_what_the_server_says_of_its_result, 0,
                        sizeof(hint_cases) / sizeof(*hint_cases));
    tcase_add_test(answers, a_huge_ttl_does_not_wrap_round);
    tcase_add_loop_test(answers, keeps_results_up_to_the_limit_and_no_stream_of_notifications, 0,
                        2);
    tcase_add_test(answers, tells_what_has_changed_also_where_no_answer_is_wanted);
    tcase_add_test(answers, the_id_is_the_same_whatever_its_escapes);
    suite_add_tcase(suite, answers);
    return run_suite(suite);
}
