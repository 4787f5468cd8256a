/* SPDX-License-Identifier: Apache-2.0 */
/* Which tools a server says only read: told without doubt, or not at all. */
#include "mcp_proxy_tools.h"

#include "cache_fixture.h"

#define ANSWER(tools) "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"x\":[{}],\"tools\":" tools "}}"

typedef struct list_t {
    const char *body;
    int is_stream;
    const char *told; /* names, + if it only reads */
} list_t;

static const list_t lists[] = {
    { ANSWER("[{\"name\":\"a\",\"annotations\":{\"readOnlyHint\":true}},{\"name\":\"b\"}]"), 0,
      "+a b " },
    { ANSWER("[{\"annotations\":{\"title\":\"t\",\"readOnlyHint\":true,\"z\":[1]},\"inputSchema\":"
             "{\"name\":\"no\"},\"name\":\"\\u0061\"}]"), 0, "+a " },
    { ANSWER("[{\"name\":\"a\",\"annotations\":{\"readOnlyHint\":false}}]"), 0, "a " },
    { ANSWER("[{\"name\":\"a\",\"annotations\":{\"readOnlyHint\":\"true\"}}]"), 0, "a " },
    { ANSWER("[{\"name\":\"a\",\"annotations\":true}]"), 0, "a " },
    { ANSWER("[{\"name\":\"a\",\"annotations\":{\"readOnlyHint\":false,"
             "\"readOnlyHint\":true}}]"), 0, "a " },
    { ANSWER("[{\"name\":1},3,[],{\"name\":\"b\"}]"), 0, "b " },
    { ANSWER("[]"), 0, "" },
    { ANSWER("{}"), 0, "" },
    { "{\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{\"tools\":[{\"name\":\"a\"}]}}", 0, "" },
    { "{\"jsonrpc\":\"2.0\",\"id\":7,\"error\":{\"code\":1,\"message\":\"\"}}", 0, "" },
    { "", 0, "" },
    { "data: {}\n\nid: 1\ndata: " ANSWER("[{\"name\":\"a\"}]") "\n\n", 1, "a " },
    { "data: " ANSWER("[{\"name\":\"a\"}]") "\n", 1, "" },
};

static void tell(void *baton, const char *name, int is_read_only)
{
    const char **told = baton;

    *told = apr_pstrcat(pool, *told, is_read_only ? "+" : "", name, " ", NULL);
}

START_TEST(a_tool_only_reads_if_its_server_says_so)
{
    const char *told = "";

    mcp_tools_read(span(lists[_i].body), lists[_i].is_stream, span("7"), tell, &told, pool);
    ck_assert_str_eq(told, lists[_i].told);
}
END_TEST

START_TEST(bytes_are_gathered_up_to_a_limit)
{
    mcp_gather_t all = { NULL, 0, 0 };
    char bytes[1000];
    int i;

    memset(bytes, 'x', sizeof(bytes));
    for (i = 1; i <= 100; i++) {
        ck_assert_int_eq(mcp_gather(&all, bytes, (apr_size_t)i, 5050, pool), APR_SUCCESS);
    }
    ck_assert_int_eq((int)all.len, 5050);
    ck_assert_int_eq(mcp_gather(&all, bytes, 1, 5050, pool), APR_ENOSPC);
    for (i = 0; i < 5050; i++) {
        ck_assert(all.p[i] == 'x');
    }
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("tools");
    Suite *suite = suite_create("mcp_proxy_tools");

    tcase_add_checked_fixture(tests, make_pool, drop_pool);
    tcase_add_loop_test(tests, a_tool_only_reads_if_its_server_says_so, 0,
                        (int)(sizeof(lists) / sizeof(*lists)));
    tcase_add_test(tests, bytes_are_gathered_up_to_a_limit);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
