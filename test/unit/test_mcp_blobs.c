/* SPDX-License-Identifier: Apache-2.0 */
/* What test_mcp_cache_shm does not see of the store below: steps that look first, and removal. */
#include "mcp_blobs.h"

#include <sys/mman.h>

#include "cache_fixture.h"

#define SIZE (1024 * 1024)
#define MINUTE apr_time_from_sec(60)

static mcp_blobs_t *blobs;

static void make_store(void)
{
    make_memory(SIZE);
    blobs = mcp_blobs_init(memory, SIZE, 1000);
}

static const unsigned char *digest_of(unsigned number)
{
    static unsigned char digest[MCP_BLOBS_DIGEST];

    memset(digest, 0, sizeof(digest));
    memcpy(digest, &number, sizeof(number));
    memcpy(digest + 4, &number, sizeof(number));
    return digest;
}

/* The text that is there, or "-". */
static const char *text_of(unsigned number)
{
    mcp_span_t value;
    apr_interval_time_t left;

    return mcp_blobs_get(blobs, digest_of(number), pool, &value, &left) == APR_SUCCESS ? value.p
                                                                                       : "-";
}

static apr_status_t put(unsigned number, const char *text)
{
    return mcp_blobs_put(blobs, digest_of(number), span(text), MINUTE);
}

static apr_status_t put_over(unsigned number, const char *text, const char *over)
{
    return mcp_blobs_put_over(blobs, digest_of(number), span(text), MINUTE, span(over));
}

START_TEST(a_place_that_is_taken_is_not_given_twice)
{
    ck_assert_int_eq(put_over(1, "mine", ""), APR_SUCCESS);
    ck_assert_int_eq(put_over(1, "yours", ""), APR_EEXIST);
    ck_assert_str_eq(text_of(1), "mine");
    ck_assert_int_eq(put_over(1, "still mine", "mine"), APR_SUCCESS);
    ck_assert_str_eq(text_of(1), "still mine");
    mcp_clock_set(START + MINUTE);
    ck_assert_int_eq(put_over(1, "yours", ""), APR_SUCCESS);
    ck_assert_str_eq(text_of(1), "yours");
}
END_TEST

START_TEST(values_of_several_blocks_are_compared_whole)
{
    char *a = apr_palloc(pool, 5001), *b;

    memset(a, 'x', 5000);
    a[5000] = '\0';
    b = apr_pstrdup(pool, a);
    b[4999] = 'y';
    ck_assert_int_eq(put(1, a), APR_SUCCESS);
    ck_assert_int_eq(put_over(1, "new", b), APR_EEXIST);
    ck_assert_int_eq(put_over(1, "new", a), APR_SUCCESS);
}
END_TEST

START_TEST(removes_only_what_is_meant)
{
    mcp_span_t other = span("other"), mine = span("mine");

    put(1, "mine");
    mcp_blobs_remove(blobs, digest_of(1), &other);
    ck_assert_str_eq(text_of(1), "mine");
    mcp_blobs_remove(blobs, digest_of(1), &mine);
    ck_assert_str_eq(text_of(1), "-");
    put(1, "mine");
    mcp_blobs_remove(blobs, digest_of(1), NULL);
    mcp_blobs_remove(blobs, digest_of(1), NULL);
    ck_assert_str_eq(text_of(1), "-");
}
END_TEST

START_TEST(use_prolongs_and_never_shortens)
{
    put(1, "x");
    ck_assert_int_eq(mcp_blobs_prolong(blobs, digest_of(1), MINUTE / 2), APR_SUCCESS);
    mcp_clock_set(START + MINUTE - 1);
    ck_assert_int_eq(mcp_blobs_prolong(blobs, digest_of(1), MINUTE), APR_SUCCESS);
    mcp_clock_set(START + 2 * MINUTE - 2);
    ck_assert_str_eq(text_of(1), "x");
    mcp_clock_set(START + 2 * MINUTE - 1);
    ck_assert_int_eq(mcp_blobs_prolong(blobs, digest_of(1), MINUTE), APR_NOTFOUND);
}
END_TEST

START_TEST(what_was_given_back_is_used_again)
{
    apr_uint64_t entries, bytes;
    unsigned i;

    for (i = 0; i < 10000; i++) {
        ck_assert_int_eq(put(i, "some text"), APR_SUCCESS);
        if (i % 3) {
            mcp_blobs_remove(blobs, digest_of(i), NULL);
        }
        ck_assert_str_eq(text_of(i), i % 3 ? "-" : "some text");
    }
    mcp_blobs_usage(blobs, &entries, &bytes);
    ck_assert(entries > 500 && entries < 1100 && bytes == entries * 9);
}
END_TEST

START_TEST(pages_that_were_never_used_are_not_touched)
{
    unsigned char resident[SIZE / 4096];
    unsigned i, touched = 0;

    put(1, "x");
    ck_assert_int_eq(mincore(memory, SIZE, resident), 0);
    for (i = 0; i < sizeof(resident); i++) {
        touched += resident[i] & 1;
    }
    ck_assert_msg(touched < 8, "%u pages", touched);
}
END_TEST

START_TEST(holds_as_many_small_values_as_its_size_says)
{
    char *text = apr_palloc(pool, MCP_BLOBS_SMALL + 1);
    apr_uint64_t entries, bytes;
    unsigned i;

    memset(text, 'x', MCP_BLOBS_SMALL);
    text[MCP_BLOBS_SMALL] = '\0';
    for (i = 0; i < 2 * SIZE / MCP_BLOBS_EACH; i++) {
        put(i, text);
    }
    mcp_blobs_usage(blobs, &entries, &bytes);
    ck_assert_msg(entries >= SIZE / MCP_BLOBS_EACH, "%d of %d", (int)entries,
                  SIZE / MCP_BLOBS_EACH);
}
END_TEST

int main(void)
{
    TCase *store = tcase_create("store");
    Suite *suite = suite_create("mcp_blobs");

    tcase_add_checked_fixture(store, make_store, drop_memory);
    tcase_add_test(store, a_place_that_is_taken_is_not_given_twice);
    tcase_add_test(store, values_of_several_blocks_are_compared_whole);
    tcase_add_test(store, removes_only_what_is_meant);
    tcase_add_test(store, use_prolongs_and_never_shortens);
    tcase_add_test(store, what_was_given_back_is_used_again);
    tcase_add_test(store, pages_that_were_never_used_are_not_touched);
    tcase_add_test(store, holds_as_many_small_values_as_its_size_says);
    suite_add_tcase(suite, store);
    return run_suite(suite);
}
