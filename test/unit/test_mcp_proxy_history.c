/* SPDX-License-Identifier: Apache-2.0 */
/* The last minutes: steps between counters, quantiles of buckets, and a ring that
 * has gone round. */
#include <math.h>
#include <stdlib.h>

#include <check.h>

#include "mcp_proxy_history.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define START (1000 * SECOND)

static mcp_shared_t *shared;
static mcp_history_t history;
static mcp_history_step_t steps[MCP_HISTORY_POINTS];
static int row;

static void set_up(void)
{
    shared = mcp_shared_init(calloc(1, mcp_shared_size()));
    ck_assert_ptr_nonnull(shared);
    row = mcp_shared_claim(shared, 1);
    history = (mcp_history_t){ 0 };
}

static void tear_down(void)
{
    free(shared);
}

static void ask(int count)
{
    while (count--) {
        mcp_shared_request_add(shared, row, 0, 0);
    }
}

START_TEST(an_empty_one_has_no_steps)
{
    ck_assert_int_eq(mcp_history_read(&history, shared, START, steps), 0);
    mcp_history_add(&history, shared, START);
    ck_assert_int_eq(mcp_history_read(&history, shared, START + SECOND / 2, steps), 0);
}
END_TEST

START_TEST(a_step_is_what_came_between_two_points)
{
    ask(1000);
    mcp_history_add(&history, shared, START);
    ask(30);
    mcp_shared_add(shared, row, MCP_SHARED_STREAMS, 4);
    mcp_history_add(&history, shared, START + 10 * SECOND);
    ask(5);
    mcp_shared_time_add(shared, row, MCP_SHARED_EVENT_TIME, 80);
    ck_assert_int_eq(mcp_history_read(&history, shared, START + 15 * SECOND, steps), 2);
    ck_assert_double_eq_tol(steps[0].calls, 3, 1e-9);
    ck_assert_double_eq_tol(steps[0].streams, 4, 1e-9);
    ck_assert(steps[0].median_ms < 0);
    ck_assert_double_eq_tol(steps[1].calls, 1, 1e-9);
    ck_assert(steps[1].median_ms > 0.05 && steps[1].median_ms <= 0.1);
    ck_assert_int_eq(steps[1].when, START + 15 * SECOND);
}
END_TEST

START_TEST(a_clock_that_was_set_back_makes_no_step)
{
    mcp_history_add(&history, shared, START);
    mcp_history_add(&history, shared, START - 3600 * SECOND);
    ck_assert_int_eq(mcp_history_read(&history, shared, START + 10 * SECOND, steps), 1);
    ck_assert(steps[0].calls >= 0);
}
END_TEST

START_TEST(the_oldest_points_make_room)
{
    unsigned i, count;

    for (i = 0; i < 3 * MCP_HISTORY_POINTS; i++) {
        mcp_history_add(&history, shared, START + i * 10 * SECOND);
        ask(20);
    }
    count = mcp_history_read(&history, shared, START + i * 10 * SECOND, steps);
    ck_assert_int_eq(count, MCP_HISTORY_POINTS - 1);
    for (i = 0; i < count; i++) {
        ck_assert_double_eq_tol(steps[i].calls, 2, 1e-9);
        ck_assert(!i || steps[i].when == steps[i - 1].when + 10 * SECOND);
    }
}
END_TEST

START_TEST(a_quantile_lies_in_its_bucket)
{
    const apr_interval_time_t *bounds = mcp_shared_bounds[MCP_SHARED_EVENT_TIME];
    mcp_shared_times_t times = { { 0 }, 0 };

    ck_assert(mcp_history_quantile(&times, MCP_SHARED_EVENT_TIME, 0.5) < 0);
    times.count[0] = 50;
    times.count[3] = 49;
    times.count[MCP_SHARED_BUCKETS - 1] = 1;
    ck_assert_double_eq_tol(mcp_history_quantile(&times, MCP_SHARED_EVENT_TIME, 0.25),
                            (double)bounds[0] / 2, 1e-6);
    ck_assert_double_eq_tol(mcp_history_quantile(&times, MCP_SHARED_EVENT_TIME, 0.5),
                            (double)bounds[0], 1e-6);
    ck_assert_double_eq_tol(mcp_history_quantile(&times, MCP_SHARED_EVENT_TIME, 0.99),
                            (double)bounds[3], 1e-6);
    ck_assert_double_eq_tol(mcp_history_quantile(&times, MCP_SHARED_EVENT_TIME, 1),
                            (double)bounds[MCP_SHARED_BUCKETS - 2], 1e-6);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("history");
    Suite *suite = suite_create("mcp_proxy_history");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, an_empty_one_has_no_steps);
    tcase_add_test(tcase, a_step_is_what_came_between_two_points);
    tcase_add_test(tcase, a_clock_that_was_set_back_makes_no_step);
    tcase_add_test(tcase, the_oldest_points_make_room);
    tcase_add_test(tcase, a_quantile_lies_in_its_bucket);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
