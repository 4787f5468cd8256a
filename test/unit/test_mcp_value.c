/* SPDX-License-Identifier: Apache-2.0 */
/* The readers of configuration values take the whole text or nothing, and never wrap around. */
#include <stdlib.h>
#include <string.h>

#include <check.h>
#include <apr_general.h>
#include <apr_pools.h>

#include "mcp_value.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC

typedef apr_status_t reader_fn(const char *text, apr_int64_t *out);

typedef struct number_case_t {
    reader_fn *read;
    const char *text;
    apr_status_t rv;
    apr_int64_t value;
} number_case_t;

static const number_case_t number_cases[] = {
    { mcp_value_duration, "0", APR_SUCCESS, 0 },
    { mcp_value_duration, "10", APR_SUCCESS, 10 * SECOND },
    { mcp_value_duration, "10s", APR_SUCCESS, 10 * SECOND },
    { mcp_value_duration, "250ms", APR_SUCCESS, 250 * 1000 },
    { mcp_value_duration, "5m", APR_SUCCESS, 300 * SECOND },
    { mcp_value_duration, "5mi", APR_SUCCESS, 300 * SECOND },
    { mcp_value_duration, "4h", APR_SUCCESS, 14400 * SECOND },
    { mcp_value_duration, "1d", APR_SUCCESS, 86400 * SECOND },
    { mcp_value_duration, "4H", APR_SUCCESS, 14400 * SECOND },
    { mcp_value_duration, "007s", APR_SUCCESS, 7 * SECOND },
    { mcp_value_duration, "106751991d", APR_SUCCESS, APR_INT64_C(9223372022400000000) },
    { mcp_value_duration, "106751992d", APR_ERANGE, 0 },
    { mcp_value_duration, "99999999999999999999", APR_ERANGE, 0 },
    { mcp_value_duration, "99999999999999999999x", APR_EINVAL, 0 },
    { mcp_value_duration, "", APR_EINVAL, 0 },
    { mcp_value_duration, "s", APR_EINVAL, 0 },
    { mcp_value_duration, "-1s", APR_EINVAL, 0 },
    { mcp_value_duration, "+1s", APR_EINVAL, 0 },
    { mcp_value_duration, "1.5s", APR_EINVAL, 0 },
    { mcp_value_duration, "1 s", APR_EINVAL, 0 },
    { mcp_value_duration, " 1s", APR_EINVAL, 0 },
    { mcp_value_duration, "1s ", APR_EINVAL, 0 },
    { mcp_value_duration, "1sec", APR_EINVAL, 0 },
    { mcp_value_duration, "1M5", APR_EINVAL, 0 },
    { mcp_value_duration, "0x10", APR_EINVAL, 0 },
    { mcp_value_size, "0", APR_SUCCESS, 0 },
    { mcp_value_size, "4096", APR_SUCCESS, 4096 },
    { mcp_value_size, "64K", APR_SUCCESS, 65536 },
    { mcp_value_size, "4M", APR_SUCCESS, 4194304 },
    { mcp_value_size, "4m", APR_SUCCESS, 4194304 },
    { mcp_value_size, "1G", APR_SUCCESS, 1073741824 },
    { mcp_value_size, "8589934591G", APR_SUCCESS, APR_INT64_C(9223372035781033984) },
    { mcp_value_size, "8589934592G", APR_ERANGE, 0 },
    { mcp_value_size, "4MB", APR_EINVAL, 0 },
    { mcp_value_size, "4T", APR_EINVAL, 0 },
    { mcp_value_size, "-4M", APR_EINVAL, 0 },
    { mcp_value_size, "", APR_EINVAL, 0 },
    { mcp_value_count, "0", APR_SUCCESS, 0 },
    { mcp_value_count, "-0", APR_SUCCESS, 0 },
    { mcp_value_count, "65536", APR_SUCCESS, 65536 },
    { mcp_value_count, "-5", APR_SUCCESS, -5 },
    { mcp_value_count, "9223372036854775807", APR_SUCCESS, APR_INT64_MAX },
    { mcp_value_count, "-9223372036854775808", APR_SUCCESS, APR_INT64_MIN },
    { mcp_value_count, "9223372036854775808", APR_ERANGE, 0 },
    { mcp_value_count, "-9223372036854775809", APR_ERANGE, 0 },
    { mcp_value_count, "-", APR_EINVAL, 0 },
    { mcp_value_count, "--1", APR_EINVAL, 0 },
    { mcp_value_count, "1K", APR_EINVAL, 0 },
    { mcp_value_count, "", APR_EINVAL, 0 },
};

START_TEST(reads_a_number_whole_or_not_at_all)
{
    const number_case_t *c = &number_cases[_i];
    apr_int64_t value = 4711;
    apr_status_t rv = c->read(c->text, &value);

    ck_assert_msg(rv == c->rv, "\"%s\" gave status %d", c->text, rv);
    ck_assert_msg(value == (rv ? 4711 : c->value), "\"%s\" gave %" APR_INT64_T_FMT, c->text,
                  value);
}
END_TEST

typedef struct match_case_t {
    const char *pattern;
    const char *text;
    int matches;
} match_case_t;

static const match_case_t match_cases[] = {
    { "", "", 1 },
    { "", "a", 0 },
    { "a", "", 0 },
    { "*", "", 1 },
    { "***", "", 1 },
    { "*", "anything at all", 1 },
    { "?", "", 0 },
    { "?", "a", 1 },
    { "?", "ab", 0 },
    { "?*", "", 0 },
    { "*?", "abc", 1 },
    { "search_*", "search_", 1 },
    { "search_*", "search_web", 1 },
    { "search_*", "Search_web", 0 },
    { "search_*", "research_web", 0 },
    { "*_web", "search_web", 1 },
    { "*_web", "search_webs", 0 },
    { "*_web", "a_web_web", 1 },
    { "a*b*c", "a-b-b-c", 1 },
    { "a*b*c", "a-c-b", 0 },
    { "a*?c", "abc", 1 },
    { "a*?c", "ac", 0 },
    { "*a?c*", "xxabxaxcxx", 1 },
    { "*", "*", 1 },
    { "[ab]", "a", 0 },
    { "a\\*", "a*", 0 },
    { "?", "\xc3", 1 },
};

START_TEST(matches_patterns_of_stars_and_question_marks)
{
    const match_case_t *c = &match_cases[_i];

    ck_assert_msg(!mcp_value_matches(c->pattern, c->text) == !c->matches,
                  "pattern \"%s\", text \"%s\"", c->pattern, c->text);
}
END_TEST

/* Anything worse than a product of the lengths would not end before the test's time is up. */
START_TEST(matches_many_stars_without_trying_all_combinations)
{
    enum { LENGTH = 100000 };
    char *text = malloc(LENGTH + 1);

    memset(text, 'a', LENGTH);
    text[LENGTH] = '\0';
    ck_assert(!mcp_value_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
    ck_assert(!mcp_value_matches("*aaaaaaaaaaaaaaaaaaaaaaaaaaaaaab*a", text));
    ck_assert(mcp_value_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*", text));
    free(text);
}
END_TEST

START_TEST(escapes_everything_that_could_be_taken_for_a_separator)
{
    static const char odd[] = "a:b c%\0\n\xff{}*/";
    apr_pool_t *p;

    apr_pool_create(&p, NULL);
    ck_assert_str_eq(mcp_value_escape(odd, sizeof(odd) - 1, p),
                     "a%3Ab%20c%25%00%0A%FF%7B%7D%2A%2F");
    ck_assert_str_eq(mcp_value_escape("Az09-._~@+", 10, p), "Az09-._~@+");
    ck_assert_str_eq(mcp_value_escape("", 0, p), "");
    apr_pool_destroy(p);
}
END_TEST

int main(void)
{
    TCase *numbers = tcase_create("numbers"), *patterns = tcase_create("patterns");
    TCase *escapes = tcase_create("escapes");
    Suite *suite = suite_create("mcp_value");

    tcase_add_loop_test(numbers, reads_a_number_whole_or_not_at_all, 0,
                        sizeof(number_cases) / sizeof(*number_cases));
    tcase_add_loop_test(patterns, matches_patterns_of_stars_and_question_marks, 0,
                        sizeof(match_cases) / sizeof(*match_cases));
    tcase_add_test(patterns, matches_many_stars_without_trying_all_combinations);
    tcase_add_test(escapes, escapes_everything_that_could_be_taken_for_a_separator);
    suite_add_tcase(suite, numbers);
    suite_add_tcase(suite, patterns);
    suite_add_tcase(suite, escapes);
    return run_suite(suite);
}
