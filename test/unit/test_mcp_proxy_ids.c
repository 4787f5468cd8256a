/* SPDX-License-Identifier: Apache-2.0 */
/* Every place in a URL that a backend could read an id from is found, and can be given another. */
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <apr_general.h>
#include <apr_strings.h>

#include "mcp_proxy_ids.h"
#include "run_suite.h"

static apr_pool_t *pool;

static void setup(void)
{
    apr_pool_create(&pool, NULL);
}

static void teardown(void)
{
    apr_pool_destroy(pool);
}

/* All ids of a URL, one behind the other: "guess? id". */
static const char *note_id(void *baton, const char *id, int is_guess)
{
    char **seen = baton;

    *seen = apr_pstrcat(pool, *seen, **seen ? " " : "", is_guess ? "?" : "", id, NULL);
    return id;
}

typedef struct place_case_t {
    const char *url, *ids;
} place_case_t;

static const place_case_t place_cases[] = {
    { "", "" },
    { "/", "" },
    { "mcp", "" },
    { "/mcp", "?mcp" },
    { "/app/mcp/", "?mcp" },
    { "/message/1", "1" },
    { "/app/messages/1", "1" },
    { "/Messages/1", "1" },
    { "/message/1//", "1" },
    { "/message/%41%2f", "A/" },
    { "/messages", "?messages" },
    { "/mymessage/1", "?1" },
    { "/message//1", "1" },
    { "//message///1//", "1" },
    { "/m%65ssag%65s/1", "1" },
    { "/message;a=b/1", "1" },
    { "/message;a=b/1;c", "1;c" },
    { "message/1", "1" },
    { "//", "" },
    { "/1", "?1" },
    { "/message/1/x", "?x" },
    { "http://127.0.0.1:80/message/1?x=2", "1" },
    { "/m?session_id=1", "?m 1" },
    { "/m?sessionId=1&sessionid=2;session_id=3", "?m 1 2 3" },
    { "/m?SESSIONID=1&Session_Id=2", "?m 1 2" },
    { "/m?sessionId[]=1&sessionId[0]=2&sessionId%5B%5D=3", "?m 1 2 3" },
    { "/m?%73essionId=%31", "?m 1" },
    { "/m?sessionId==", "?m =" },
    { "/m?sessionId=%00%zz%", "?m %%zz%" },
    { "/m?sessionId=&sessionId&xsessionId=1&sessionIdx=2&session=3&[]=4&=5", "?m" },
    { "/m?a=/message/1", "?m" },
    { "/m#?sessionId=1", "?m" },
};

START_TEST(every_id_is_found)
{
    const place_case_t *c = &place_cases[_i];
    char *seen = apr_pstrdup(pool, "");
    const char *url = mcp_id_map_url(pool, c->url, note_id, &seen);

    ck_assert_ptr_eq(url, c->url);
    ck_assert_str_eq(seen, c->ids);
}
END_TEST

static const char *swap(void *baton, const char *id, int is_guess)
{
    const char **pair = baton;

    return strcmp(id, pair[0]) == 0 ? pair[1] : id;
}

typedef struct swap_case_t {
    const char *url, *from, *to, *result;
} swap_case_t;

static const swap_case_t swap_cases[] = {
    { "/m?sessionId=a", "a", "b", "/m?sessionId=b" },
    { "/m?x=a&sessionId=a&y=a", "a", "b", "/m?x=a&sessionId=b&y=a" },
    { "/m?sessionId=a;session_id=%61&sessionId=c", "a", "b",
      "/m?sessionId=b;session_id=b&sessionId=c" },
    { "/a/message/a", "a", "b", "/a/message/b" },
    { "/a/message/a/", "a", "b", "/a/message/b/" },
    { "/message/a?x=1&sessionId=a#a", "a", "b", "/message/b?x=1&sessionId=b#a" },
    { "/m?sessionId=a", "a", "x/y&z=1 ~%", "/m?sessionId=x%2Fy%26z%3D1%20~%25" },
    { "/m?sessionId=%78%2Fy", "x/y", "\xc3\xa4", "/m?sessionId=%C3%A4" },
};

START_TEST(ids_are_replaced_and_nothing_else)
{
    const swap_case_t *c = &swap_cases[_i];
    const char *pair[] = { c->from, c->to }, *back[] = { c->to, c->from };
    const char *there = mcp_id_map_url(pool, c->url, swap, pair);

    ck_assert_str_eq(there, c->result);
    ck_assert_str_eq(mcp_id_map_url(pool, mcp_id_map_url(pool, there, swap, back), swap, pair),
                     there);
}
END_TEST

static const char *refuse(void *baton, const char *id, int is_guess)
{
    return strcmp(id, baton) == 0 ? NULL : id;
}

START_TEST(one_id_that_is_refused_refuses_the_url)
{
    static char a[] = "a", b[] = "b", c[] = "c";

    ck_assert_ptr_null(mcp_id_map_url(pool, "/message/a?sessionId=b", refuse, a));
    ck_assert_ptr_null(mcp_id_map_url(pool, "/message/a?sessionId=b", refuse, b));
    ck_assert_ptr_null(mcp_id_map_url(pool, "/m?sessionId=a&sessionId=b", refuse, b));
    ck_assert_ptr_nonnull(mcp_id_map_url(pool, "/m?sessionId=a&sessionId=b", refuse, c));
}
END_TEST

START_TEST(segments_that_move_the_end_of_a_path_are_seen)
{
    static const char *const moving[] = {
        "/message/a/.", "/a/./b", "/a/../b", "/..", "/a/%2e", "/a/%2E%2e/?b", "/a/.%2e#b"
    };
    static const char *const still[] = {
        "/", "", "/a.b/..c", "/.well-known/x", "/a/...", "/a?/./", "/a#/../", "/%41", "http://a.b/c"
    };
    apr_size_t i;

    for (i = 0; i < sizeof(moving) / sizeof(*moving); i++) {
        ck_assert_msg(mcp_id_may_move(pool, moving[i]), "%s", moving[i]);
    }
    for (i = 0; i < sizeof(still) / sizeof(*still); i++) {
        ck_assert_msg(!mcp_id_may_move(pool, still[i]), "%s", still[i]);
    }
}
END_TEST

START_TEST(a_word_is_no_likely_id)
{
    static const char *const words[] = { "", "messages", "abc1234", "mcp" };
    static const char *const ids[] = { "abcdefg1", "0123456789", "1e0c2b8e-9a53-4f0a-8f4e" };
    apr_size_t i;

    for (i = 0; i < sizeof(words) / sizeof(*words); i++) {
        ck_assert(!mcp_id_is_likely(words[i]));
    }
    for (i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
        ck_assert(mcp_id_is_likely(ids[i]));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mcp_proxy_ids");
    TCase *tc = tcase_create("places");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, every_id_is_found, 0,
                        (int)(sizeof(place_cases) / sizeof(*place_cases)));
    tcase_add_loop_test(tc, ids_are_replaced_and_nothing_else, 0,
                        (int)(sizeof(swap_cases) / sizeof(*swap_cases)));
    tcase_add_test(tc, one_id_that_is_refused_refuses_the_url);
    tcase_add_test(tc, segments_that_move_the_end_of_a_path_are_seen);
    tcase_add_test(tc, a_word_is_no_likely_id);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
