/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON reader under texts that are deep or have many names. What is JSON and what is not is
 * tested through the messages, in test_mcp_rpc.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>

#include "mcp_json.h"
#include "run_suite.h"

static apr_pool_t *pool;

static void make_pool(void)
{
    apr_pool_create(&pool, NULL);
}

static void drop_pool(void)
{
    apr_pool_destroy(pool);
}

/* Read a whole text; *duplicates as the reader saw it. */
static apr_status_t read_all(const char *text, apr_size_t len, int *duplicates)
{
    mcp_json_t json;
    mcp_span_t raw;
    apr_status_t rv;

    mcp_json_init(&json, text, len, pool);
    rv = mcp_json_skip(&json, &raw);
    if (rv == APR_SUCCESS) {
        rv = mcp_json_end(&json);
    }
    ck_assert(!json.error == (rv == APR_SUCCESS));
    *duplicates = json.duplicates;
    mcp_json_done(&json);
    return rv;
}

typedef struct depth_case_t {
    const char *open, *core, *shut;
    int depth, is_taken;
} depth_case_t;

static const depth_case_t depth_cases[] = {
    { "[", "", "]", 1, 1 },
    { "[", "", "]", MCP_JSON_MAX_DEPTH, 1 },
    { "[", "", "]", MCP_JSON_MAX_DEPTH + 1, 0 },
    { "[", "", "]", 100000, 0 },
    { "[", "", "", 100000, 0 },
    { "{\"a\":", "0", "}", MCP_JSON_MAX_DEPTH, 1 },
    { "{\"a\":", "0", "}", MCP_JSON_MAX_DEPTH + 1, 0 },
    { "{\"a\":", "", "", 100000, 0 },
    { "[{\"a\":", "0", "}]", MCP_JSON_MAX_DEPTH / 2, 1 },
    { "[{\"a\":", "[]", "}]", MCP_JSON_MAX_DEPTH / 2, 0 },
    { "[[],{\"a\":[]},", "0", "]", MCP_JSON_MAX_DEPTH - 2, 1 },
    { "[[],{\"a\":[]},", "0", "]", MCP_JSON_MAX_DEPTH - 1, 0 },
};

/* The core, wrapped as often as the case says. */
static char *nested(const depth_case_t *c)
{
    apr_size_t width = strlen(c->open), core = strlen(c->core), narrow = strlen(c->shut);
    char *text = apr_palloc(pool, (apr_size_t)c->depth * (width + narrow) + core + 1);
    char *out = text;
    int i;

    for (i = 0; i < c->depth; i++, out += width) {
        memcpy(out, c->open, width);
    }
    memcpy(out, c->core, core);
    out += core;
    for (i = 0; i < c->depth; i++, out += narrow) {
        memcpy(out, c->shut, narrow);
    }
    *out = '\0';
    return text;
}

START_TEST(nests_as_deep_as_promised_and_no_deeper)
{
    const depth_case_t *c = &depth_cases[_i];
    const char *text = nested(c);
    int duplicates;

    ck_assert_msg((read_all(text, strlen(text), &duplicates) == APR_SUCCESS) == c->is_taken,
                  "%s, %d deep", c->open, c->depth);
    ck_assert(!duplicates);
}
END_TEST

/* An object of @a count members, the last one named as the one at @a twin, written otherwise. */
static const char *wide(int count, int twin, apr_size_t *len)
{
    char *text = apr_palloc(pool, (apr_size_t)count * 24 + 3), *out = text;
    int i;

    *out++ = '{';
    for (i = 0; i < count; i++) {
        int is_double = twin >= 0 && i == count - 1;

        out += sprintf(out, "%s\"%s%d\":0", i ? "," : "", is_double ? "\\u006e" : "n",
                       is_double ? twin : i);
    }
    *out++ = '}';
    *len = (apr_size_t)(out - text);
    return text;
}

START_TEST(finds_a_double_in_objects_of_every_size)
{
    static const int counts[] = { 2, 3, 15, 16, 17, 18, 63, 64, 65, 66, 127, 128, 129 };
    int twin, duplicates;
    apr_size_t i, len;

    for (i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        const char *text = wide(counts[i], -1, &len);

        ck_assert_int_eq(read_all(text, len, &duplicates), APR_SUCCESS);
        ck_assert_msg(!duplicates, "%d names that differ", counts[i]);
        for (twin = 0; twin < counts[i] - 1; twin++) {
            text = wide(counts[i], twin, &len);
            ck_assert_int_eq(read_all(text, len, &duplicates), APR_SUCCESS);
            ck_assert_msg(duplicates, "%d names, the last one as number %d", counts[i], twin);
        }
    }
}
END_TEST

/* Comparing all pairs would not end before the test's time is up. */
START_TEST(finds_a_double_among_very_many_names)
{
    enum { MANY = 1000000 };
    apr_size_t len;
    int duplicates;
    const char *text = wide(MANY, -1, &len);

    ck_assert_int_eq(read_all(text, len, &duplicates), APR_SUCCESS);
    ck_assert(!duplicates);
    text = wide(MANY, 0, &len);
    ck_assert_int_eq(read_all(text, len, &duplicates), APR_SUCCESS);
    ck_assert(duplicates);
}
END_TEST

/* Names of an outer object outlive those of the inner ones, also while room for them grows. */
START_TEST(compares_names_within_one_object_only)
{
    apr_size_t len;
    const char *inner = wide(100, -1, &len);
    const char *text;
    int duplicates;

    inner = apr_pstrmemdup(pool, inner, len);
    text = apr_psprintf(pool, "{\"n1\":%s,\"n2\":[%s,%s],\"n3\":0}", inner, inner, inner);
    ck_assert_int_eq(read_all(text, strlen(text), &duplicates), APR_SUCCESS);
    ck_assert(!duplicates);
    text = apr_psprintf(pool, "{\"n1\":%s,\"n2\":[%s,%s],\"n1\":0}", inner, inner, inner);
    ck_assert_int_eq(read_all(text, strlen(text), &duplicates), APR_SUCCESS);
    ck_assert(duplicates);
}
END_TEST

/* A caller that reads several texts in one resets the flag between them. */
START_TEST(starts_anew_when_the_flag_is_reset)
{
    static const char text[] = "[{\"a\":1,\"a\":1},{\"a\":1},{\"b\":1,\"b\":1}]";
    static const int expected[] = { 1, 0, 1 };
    mcp_json_nest_t nest;
    mcp_json_t json;
    mcp_span_t raw;
    int i;

    mcp_json_init(&json, text, sizeof(text) - 1, pool);
    ck_assert_int_eq(mcp_json_open(&json, &nest), APR_SUCCESS);
    for (i = 0; i < 3; i++) {
        json.duplicates = 0;
        ck_assert_int_eq(mcp_json_next(&json, &nest, NULL), APR_SUCCESS);
        ck_assert_int_eq(mcp_json_skip(&json, &raw), APR_SUCCESS);
        ck_assert_int_eq(json.duplicates, expected[i]);
    }
    ck_assert_int_eq(mcp_json_next(&json, &nest, NULL), APR_EOF);
    ck_assert_int_eq(mcp_json_end(&json), APR_SUCCESS);
    mcp_json_done(&json);
}
END_TEST

START_TEST(decodes_a_string_with_its_length)
{
    static const char text[] = "\"a\\u0000b\\ud83d\\ude00\\ud83d\\u0800\\u07ff"
        "\\u007f\\u0080\\uffff\\ud800\\udc00\"";
    static const char decoded[] = "a\0b\xf0\x9f\x98\x80\xef\xbf\xbd\xe0\xa0\x80\xdf\xbf"
        "\x7f\xc2\x80\xef\xbf\xbf\xf0\x90\x80\x80";
    mcp_json_string_t string;
    mcp_json_t json;
    const char *got;
    apr_size_t len;

    mcp_json_init(&json, text, sizeof(text) - 1, pool);
    ck_assert_int_eq(mcp_json_string(&json, &string), APR_SUCCESS);
    ck_assert(string.has_escape && string.has_nul && string.has_lone_surrogate);
    got = mcp_json_decode(&string, pool, &len);
    ck_assert_int_eq(len, sizeof(decoded) - 1);
    ck_assert(!memcmp(got, decoded, sizeof(decoded)));
    mcp_json_done(&json);
}
END_TEST

START_TEST(refuses_to_read_what_is_not_there)
{
    mcp_json_string_t string;
    mcp_json_nest_t nest;
    mcp_json_t json;

    mcp_json_init(&json, " 1", 2, pool);
    ck_assert_int_eq(mcp_json_string(&json, &string), APR_EGENERAL);
    ck_assert_int_eq(mcp_json_open(&json, &nest), APR_EGENERAL);
    ck_assert_str_eq(json.error, "a string is missing");
    ck_assert_int_eq(mcp_json_end(&json), APR_EGENERAL);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("reader");
    Suite *suite = suite_create("mcp_json");

    tcase_add_checked_fixture(tcase, make_pool, drop_pool);
    tcase_add_loop_test(tcase, nests_as_deep_as_promised_and_no_deeper, 0,
                        sizeof(depth_cases) / sizeof(*depth_cases));
    tcase_add_test(tcase, finds_a_double_in_objects_of_every_size);
    tcase_add_test(tcase, finds_a_double_among_very_many_names);
    tcase_add_test(tcase, compares_names_within_one_object_only);
    tcase_add_test(tcase, starts_anew_when_the_flag_is_reset);
    tcase_add_test(tcase, decodes_a_string_with_its_length);
    tcase_add_test(tcase, refuses_to_read_what_is_not_there);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
