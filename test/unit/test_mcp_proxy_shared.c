/* SPDX-License-Identifier: Apache-2.0 */
/* What all children count: gauges fall with a child, counters never do. And the closed labels. */
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "mcp_proxy_label.h"
#include "mcp_proxy_shared.h"
#include "run_suite.h"

static mcp_shared_t *shared;

static void set_up(void)
{
    shared = mcp_shared_init(calloc(1, mcp_shared_size()));
    ck_assert_ptr_nonnull(shared);
}

static void tear_down(void)
{
    free(shared);
}

START_TEST(a_buried_child_takes_its_gauges_and_leaves_its_counters)
{
    int a = mcp_shared_claim(shared, 10), b = mcp_shared_claim(shared, 11);
    apr_int32_t held[MCP_SHARED_MEMBERS];
    int member = mcp_shared_member(shared, 77);

    mcp_shared_add(shared, a, MCP_SHARED_STREAMS, 3);
    ck_assert_int_eq(mcp_shared_add(shared, b, MCP_SHARED_STREAMS, 2), 5);
    mcp_shared_add(shared, a, MCP_SHARED_STREAMS_TOTAL, 3);
    mcp_shared_load_add(shared, a, member, 1);
    mcp_shared_load_add(shared, a, member, 1);
    mcp_shared_load_add(shared, b, member, 1);
    mcp_shared_request_add(shared, a, 1, 1);
    mcp_shared_time_add(shared, a, MCP_SHARED_STREAM_TIME, 1);
    ck_assert(mcp_shared_bury(shared, 10, held));
    ck_assert_int_eq(held[member], 2);
    ck_assert_int_eq(mcp_shared_get(shared, MCP_SHARED_STREAMS), 2);
    ck_assert_int_eq(mcp_shared_get(shared, MCP_SHARED_STREAMS_TOTAL), 3);
    ck_assert_int_eq(mcp_shared_load(shared, member), 1);
    ck_assert_int_eq(mcp_shared_calls(shared, member), 3);
    ck_assert_int_eq(mcp_shared_requests(shared, 1, 1), 1);
    ck_assert(!mcp_shared_bury(shared, 10, held));
    ck_assert_int_eq(held[member], 0);
    ck_assert_int_eq(mcp_shared_get(shared, MCP_SHARED_STREAMS), 2);
}
END_TEST

START_TEST(the_next_child_of_a_row_goes_on_where_the_last_one_was)
{
    apr_int32_t held[MCP_SHARED_MEMBERS];
    mcp_shared_times_t times;
    int a = mcp_shared_claim(shared, 10);

    mcp_shared_add(shared, a, MCP_SHARED_STREAM_ERRORS, 4);
    mcp_shared_request_add(shared, a, 2, 3);
    mcp_shared_time_add(shared, a, MCP_SHARED_EVENT_TIME, 60);
    ck_assert(!mcp_shared_bury(shared, 10, held));
    ck_assert_int_eq(mcp_shared_claim(shared, 12), a);
    mcp_shared_add(shared, a, MCP_SHARED_STREAM_ERRORS, 1);
    mcp_shared_request_add(shared, a, 2, 3);
    mcp_shared_time_add(shared, a, MCP_SHARED_EVENT_TIME, 40);
    ck_assert_int_eq(mcp_shared_get(shared, MCP_SHARED_STREAM_ERRORS), 5);
    ck_assert_int_eq(mcp_shared_requests(shared, 2, 3), 2);
    ck_assert_int_eq(mcp_shared_all_requests(shared), 2);
    mcp_shared_times(shared, MCP_SHARED_EVENT_TIME, &times);
    ck_assert_int_eq(times.sum, 100);
    ck_assert_int_eq(times.count[0], 1);
    ck_assert_int_eq(times.count[1], 1);
}
END_TEST

START_TEST(a_child_without_a_row_counts_all_the_same)
{
    int i;

    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        ck_assert_int_ge(mcp_shared_claim(shared, 100 + i), 0);
    }
    ck_assert_int_eq(mcp_shared_claim(shared, 99), -1);
    mcp_shared_add(shared, -1, MCP_SHARED_STREAMS_TOTAL, 2);
    mcp_shared_request_add(shared, -1, 0, 0);
    mcp_shared_time_add(shared, -1, MCP_SHARED_STREAM_TIME, 5);
    mcp_shared_load_add(shared, -1, 3, 1);
    ck_assert_int_eq(mcp_shared_get(shared, MCP_SHARED_STREAMS_TOTAL), 2);
    ck_assert_int_eq(mcp_shared_all_requests(shared), 1);
    ck_assert_int_eq(mcp_shared_load(shared, 3), 0);
}
END_TEST

START_TEST(a_time_is_in_the_first_bucket_that_holds_it)
{
    mcp_shared_times_t times;
    int which, i;

    for (which = 0; which < MCP_SHARED_TIMES; which++) {
        const apr_interval_time_t *bounds = mcp_shared_bounds[which];

        ck_assert_int_eq(bounds[MCP_SHARED_BUCKETS - 1], 0);
        for (i = 0; i < MCP_SHARED_BUCKETS - 1; i++) {
            ck_assert_int_gt(bounds[i], i ? bounds[i - 1] : 0);
            mcp_shared_time_add(shared, -1, (mcp_shared_time_e)which, bounds[i]);
            mcp_shared_time_add(shared, -1, (mcp_shared_time_e)which, bounds[i] + 1);
        }
        mcp_shared_time_add(shared, -1, (mcp_shared_time_e)which, -5);
    }
    mcp_shared_claim(shared, 1);
    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        mcp_shared_claim(shared, 2 + i);
    }
    for (which = 0; which < MCP_SHARED_TIMES; which++) {
        mcp_shared_times(shared, (mcp_shared_time_e)which, &times);
        for (i = 0; i < MCP_SHARED_BUCKETS; i++) {
            ck_assert_int_eq(times.count[i], i == MCP_SHARED_BUCKETS - 1 ? 1 : 2);
        }
    }
}
END_TEST

START_TEST(members_keep_their_slots)
{
    int a = mcp_shared_member(shared, 5), b = mcp_shared_member(shared, 5 + MCP_SHARED_MEMBERS);

    ck_assert_int_ne(a, b);
    ck_assert_int_eq(mcp_shared_member(shared, 5), a);
    ck_assert_int_eq(mcp_shared_find_member(shared, 5 + MCP_SHARED_MEMBERS), b);
    ck_assert_int_eq(mcp_shared_find_member(shared, 6 + MCP_SHARED_MEMBERS * 9), -1);
}
END_TEST

START_TEST(labels_are_a_closed_set)
{
    static const char *const methods[] = { "initialize", "tools/call", "ping",
                                           "subscriptions/listen", "notifications/cancelled" };
    static const char *const strangers[] = { "tools/Call", "", "batch", "GET", "other", "x/y\"",
                                             "response" };
    unsigned i;

    for (i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        ck_assert_str_eq(mcp_label_method(mcp_label_of_method(methods[i])), methods[i]);
    }
    for (i = 0; i < sizeof(strangers) / sizeof(*strangers); i++) {
        ck_assert_str_eq(mcp_label_method(mcp_label_of_method(strangers[i])), "other");
    }
    ck_assert_str_eq(mcp_label_method(mcp_label_of_method(NULL)), "other");
    for (i = 0; i < MCP_LABEL_METHODS; i++) {
        ck_assert_int_eq(mcp_label_of_word(mcp_label_method((int)i)), (int)i);
        ck_assert(!i || strcmp(mcp_label_method((int)i - 1), mcp_label_method((int)i)) < 0);
    }
    for (i = 0; i < MCP_LABEL_STATUSES; i++) {
        ck_assert_int_eq(mcp_label_of_status(mcp_label_status((int)i)), (int)i);
    }
    ck_assert_int_eq(mcp_label_status(mcp_label_of_status(299)), 200);
    ck_assert_int_eq(mcp_label_status(mcp_label_of_status(599)), 500);
    ck_assert_int_eq(mcp_label_status(mcp_label_of_status(7)), 500);
    ck_assert_int_eq(mcp_label_status(mcp_label_of_status(99999)), 500);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("shared");
    Suite *suite = suite_create("mcp_proxy_shared");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_buried_child_takes_its_gauges_and_leaves_its_counters);
    tcase_add_test(tcase, the_next_child_of_a_row_goes_on_where_the_last_one_was);
    tcase_add_test(tcase, a_child_without_a_row_counts_all_the_same);
    tcase_add_test(tcase, a_time_is_in_the_first_bucket_that_holds_it);
    tcase_add_test(tcase, members_keep_their_slots);
    tcase_add_test(tcase, labels_are_a_closed_set);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
