/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Canonical text: what is the same comes out the same, what is not never does, and what two readers
 * could read differently has none. Then a property test: random values, shuffled and respaced.
 */
#include "mcp_cache_json.h"

#include "cache_fixture.h"

#define ROUNDS 20000

static const char *canonical(const char *text)
{
    mcp_span_t out;
    apr_status_t rv = mcp_cache_json_canonical(span(text), NULL, 1 << 20, pool, &out);

    return rv == APR_SUCCESS ? apr_pstrmemdup(pool, out.p, out.len) : NULL;
}

static const struct {
    const char *text, *expected;
} same_cases[] = {
    {" { \"b\" : 1 ,\n\"a\": [ 1 , 2 ]\t} ", "{\"a\":[1,2],\"b\":1}"},
    {"{\"aa\":1,\"a\":2,\"\":3}", "{\"\":3,\"a\":2,\"aa\":1}"},
    {"{\"\\u0061\":\"\\u0062\"}", "{\"a\":\"b\"}"},
    {"\"\\/\\\"\\\\\\b\\f\\n\\r\\t\"", "\"/\\\"\\\\\\u0008\\u000c\\u000a\\u000d\\u0009\""},
    {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
    {"\"\\u00e9\"", "\"\xc3\xa9\""},
    {"[[],{},\"\",null,true,false]", "[[],{},\"\",null,true,false]"},
    {"{\"o\":{\"z\":1,\"y\":{\"b\":0,\"a\":0}},\"n\":-0}",
     "{\"n\":-0,\"o\":{\"y\":{\"a\":0,\"b\":0},\"z\":1}}"},
    {"1", "1"}, {"1.0", "1.0"}, {"1e0", "1e0"}, {"-0", "-0"}, {"1E+400", "1E+400"},
    {"9007199254740993", "9007199254740993"},
};

START_TEST(writes_equal_values_equally)
{
    ck_assert_str_eq(canonical(same_cases[_i].text), same_cases[_i].expected);
}
END_TEST

static const char *const refused_cases[] = {
    "", " ", "{", "}", "[1", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:1}",
    "1 2", "01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "NaN", "Infinity", "-Infinity", "nul",
    "truee", "'a'", "\"a", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\n\"", "\"\x1f\"",
    "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\\ud800x\"", "\"\\u0000\"",
    "\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"",
    "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "[{\"x\":{\"k\":0,\"j\":1,\"k\":0}}]",
    "{\"\\ud800\":1}", "\xef\xbb\xbf{}", "{}x", "[1]]",
};

START_TEST(has_no_text_for_what_two_readers_may_read_differently)
{
    ck_assert_msg(!canonical(refused_cases[_i]), "%s", refused_cases[_i]);
}
END_TEST

START_TEST(tells_apart_what_is_not_the_same)
{
    static const char *const different[] = {
        "1", "1.0", "1e0", "\"1\"", "[1]", "{\"1\":1}", "null", "{}", "[]", "\"\"", "\"null\"",
        "9007199254740992", "9007199254740993", "{\"a\":null}", "{\"a\":{}}", "[[1],2]", "[1,[2]]",
        "{\"a\":\"b\",\"c\":\"d\"}", "{\"a\":\"b\\\",\\\"c\\\":\\\"d\"}", "\"\xc3\xa9\"",
        "\"e\xcc\x81\"",
    };
    const int n = (int)(sizeof(different) / sizeof(*different));
    int i, j;

    for (i = 0; i < n; i++) {
        for (j = 0; j < i; j++) {
            ck_assert_str_ne(canonical(different[i]), canonical(different[j]));
        }
    }
}
END_TEST

START_TEST(leaves_one_member_of_the_outermost_object_out)
{
    mcp_span_t out;

    ck_assert_int_eq(mcp_cache_json_canonical(span("{\"b\":1,\"_m\\u0065ta\":{\"x\":1},\"a\":"
                                                   "{\"_meta\":2}}"),
                                              "_meta", 1000, pool, &out), APR_SUCCESS);
    ck_assert_str_eq(apr_pstrmemdup(pool, out.p, out.len), "{\"a\":{\"_meta\":2},\"b\":1}");
    ck_assert_int_eq(mcp_cache_json_canonical(span("{\"_meta\":1,\"_meta\":2}"), "_meta", 1000,
                                              pool, &out), APR_EINVAL);
    ck_assert_int_eq(mcp_cache_json_canonical(span("{\"_meta\":1}"), "_meta", 1000, pool, &out),
                     APR_SUCCESS);
    ck_assert_str_eq(apr_pstrmemdup(pool, out.p, out.len), "{}");
}
END_TEST

START_TEST(refuses_depth_and_length_beyond_the_limits)
{
    char deep[2 * MCP_CACHE_JSON_DEPTH + 3];
    mcp_span_t out;

    memset(deep, '[', MCP_CACHE_JSON_DEPTH);
    memset(deep + MCP_CACHE_JSON_DEPTH, ']', MCP_CACHE_JSON_DEPTH);
    deep[2 * MCP_CACHE_JSON_DEPTH] = '\0';
    ck_assert_ptr_nonnull(canonical(deep));
    memset(deep, '[', MCP_CACHE_JSON_DEPTH + 1);
    memset(deep + MCP_CACHE_JSON_DEPTH + 1, ']', MCP_CACHE_JSON_DEPTH + 1);
    deep[2 * MCP_CACHE_JSON_DEPTH + 2] = '\0';
    ck_assert_int_eq(mcp_cache_json_canonical(span(deep), NULL, 1000, pool, &out), APR_ENOSPC);
    ck_assert_int_eq(mcp_cache_json_canonical(span("\"12345678\""), NULL, 10, pool, &out),
                     APR_SUCCESS);
    ck_assert_int_eq(mcp_cache_json_canonical(span("\"12345678\""), NULL, 9, pool, &out),
                     APR_ENOSPC);
}
END_TEST

/* A random value; its text may be written in many ways, decided by `style`. */
static void write_value(char **at, unsigned *value, unsigned *style, int depth);

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1103515245U + 12345U;
    return (*seed >> 16) & 0x7fff;
}

static void write_space(char **at, unsigned *style)
{
    while (next(style) % 3 == 0) {
        *(*at)++ = " \t\n\r"[next(style) % 4];
    }
}

static void write_string(char **at, unsigned number, unsigned *style)
{
    char plain[16];
    int i;

    snprintf(plain, sizeof(plain), "k%u/\"", number);
    *(*at)++ = '"';
    for (i = 0; plain[i]; i++) {
        if (plain[i] == '"' || next(style) % 4 == 0) {
            *at += sprintf(*at, "\\u%04x", (unsigned)plain[i]);
        } else {
            *(*at)++ = plain[i];
        }
    }
    *(*at)++ = '"';
}

static void write_object(char **at, unsigned *value, unsigned *style, int depth)
{
    int members = (int)(next(value) % 5);
    int first = members ? (int)(next(style) % (unsigned)members) : 0;
    unsigned seeds[5];
    int i;

    for (i = 0; i < members; i++) {
        seeds[i] = next(value);
    }
    *(*at)++ = '{';
    for (i = 0; i < members; i++) {
        int which = (first + i) % members;

        if (i) {
            *(*at)++ = ',';
        }
        write_space(at, style);
        write_string(at, (unsigned)which, style);
        write_space(at, style);
        *(*at)++ = ':';
        write_value(at, &seeds[which], style, depth + 1);
    }
    *(*at)++ = '}';
}

static void write_value(char **at, unsigned *value, unsigned *style, int depth)
{
    unsigned kind = next(value) % (depth > 3 ? 3 : 5), i, n;

    write_space(at, style);
    if (kind == 0) {
        *at += sprintf(*at, "%u.%u", next(value) % 10, next(value) % 10);
    } else if (kind == 1) {
        write_string(at, next(value) % 50, style);
    } else if (kind == 2) {
        *at += sprintf(*at, "%s", next(value) % 2 ? "null" : "true");
    } else if (kind == 3) {
        n = next(value) % 4;
        *(*at)++ = '[';
        for (i = 0; i < n; i++) {
            if (i) {
                *(*at)++ = ',';
            }
            write_value(at, value, style, depth + 1);
        }
        *(*at)++ = ']';
    } else {
        write_object(at, value, style, depth);
    }
    write_space(at, style);
}

static const char *text_of(char *buf, unsigned value, unsigned style)
{
    char *at = buf;

    write_value(&at, &value, &style, 0);
    *at = '\0';
    return canonical(buf);
}

START_TEST(does_not_see_order_space_or_escapes)
{
    char *buf = malloc(1 << 20);
    unsigned round;

    for (round = 1; round <= ROUNDS; round++) {
        const char *one = text_of(buf, round, 2 * round);
        const char *other = text_of(buf, round, 2 * round + 1);

        ck_assert_ptr_nonnull(one);
        ck_assert_str_eq(one, other);
        ck_assert_str_eq(one, canonical(one));
        apr_pool_clear(pool);
    }
    free(buf);
}
END_TEST

START_TEST(walks_over_the_members_of_an_object)
{
    mcp_cache_json_walk_t walk;
    mcp_span_t name, value;

    ck_assert_int_eq(mcp_cache_json_walk(&walk, span(" {\"\\u0061\" : [1, 2] , \"b\":{}}"),
                                         pool), APR_SUCCESS);
    ck_assert_int_eq(mcp_cache_json_next(&walk, &name, &value), APR_SUCCESS);
    ck_assert(name.len == 1 && *name.p == 'a');
    ck_assert(value.len == 6 && !memcmp(value.p, "[1, 2]", 6));
    ck_assert_int_eq(mcp_cache_json_next(&walk, &name, &value), APR_SUCCESS);
    ck_assert_int_eq(mcp_cache_json_next(&walk, &name, &value), APR_EOF);
    ck_assert_int_eq(mcp_cache_json_walk(&walk, span("[]"), pool), APR_EINVAL);
}
END_TEST

START_TEST(finds_a_member_that_stands_once)
{
    mcp_span_t value;

    ck_assert_int_eq(mcp_cache_json_member(span("{\"x\":1,\"y\":\"z\"}"), "y", pool, &value),
                     APR_SUCCESS);
    ck_assert(mcp_cache_json_is(value, "z", pool));
    ck_assert(!mcp_cache_json_is(value, "zz", pool));
    ck_assert_int_eq(mcp_cache_json_member(span("{\"x\":1}"), "y", pool, &value), APR_NOTFOUND);
    ck_assert_int_eq(mcp_cache_json_member(span("{\"x\":1,\"x\":1}"), "x", pool, &value),
                     APR_EINVAL);
    ck_assert_int_eq(mcp_cache_json_member(span("{\"x\":1"), "x", pool, &value), APR_EINVAL);
}
END_TEST

int main(void)
{
    TCase *canon = tcase_create("canonical"), *walk = tcase_create("walk");
    Suite *suite = suite_create("mcp_cache_json");

    tcase_add_checked_fixture(canon, make_pool, drop_pool);
    tcase_add_checked_fixture(walk, make_pool, drop_pool);
    tcase_set_timeout(canon, 60);
    tcase_add_loop_test(canon, writes_equal_values_equally, 0,
                        sizeof(same_cases) / sizeof(*same_cases));
    tcase_add_loop_test(canon, has_no_text_for_what_two_readers_may_read_differently, 0,
                        sizeof(refused_cases) / sizeof(*refused_cases));
    tcase_add_test(canon, tells_apart_what_is_not_the_same);
    tcase_add_test(canon, leaves_one_member_of_the_outermost_object_out);
    tcase_add_test(canon, refuses_depth_and_length_beyond_the_limits);
    tcase_add_test(canon, does_not_see_order_space_or_escapes);
    tcase_add_test(walk, walks_over_the_members_of_an_object);
    tcase_add_test(walk, finds_a_member_that_stands_once);
    suite_add_tcase(suite, canon);
    suite_add_tcase(suite, walk);
    return run_suite(suite);
}
