/* SPDX-License-Identifier: Apache-2.0 */
/* The timers of the event loop, mostly on a clock that the tests turn. */
#include "mcp_clock.h"
#include "mcp_loop.h"

#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "run_suite.h"

#define TIMERS 20000

typedef struct sequence_t {
    int count;
    int values[64];
} sequence_t;

static mcp_loop_t *loop;
static int calls;
static sequence_t sequence;

static void open_loop(void)
{
    loop = mcp_loop_create();
    ck_assert_ptr_nonnull(loop);
    calls = 0;
}

static void close_loop(void)
{
    mcp_clock_set(0);
    mcp_loop_destroy(loop);
}

static void stop_loop(void *baton)
{
    mcp_loop_stop(loop);
}

/* Run one round, which waits for nothing. */
static void run_once(void)
{
    mcp_post_t end = { .fn = stop_loop };

    mcp_loop_post(loop, &end);
    mcp_loop_run(loop);
}

static void on_timer(mcp_timer_t *timer)
{
    sequence.values[sequence.count++] = (int)(intptr_t)timer->baton;
    calls++;
}

START_TEST(test_timers_run_when_due_in_order_of_time)
{
    mcp_timer_t timers[5];
    int i;

    mcp_clock_set(1000);
    sequence.count = 0;
    memset(timers, 0, sizeof(timers));
    for (i = 0; i < 5; i++) {
        timers[i].fn = on_timer;
        timers[i].baton = (void *)(intptr_t)i;
        mcp_timer_start(loop, &timers[i], 2000 + (i * 2 % 5) * 1000);
    }
    run_once();
    ck_assert_int_eq(calls, 0);
    mcp_clock_set(3999);
    run_once();
    ck_assert_int_eq(calls, 2);
    ck_assert_int_eq(mcp_loop_now(loop), 3999);
    mcp_clock_set(6000);
    run_once();
    ck_assert_int_eq(calls, 5);
    for (i = 0; i < 5; i++) {
        ck_assert_int_eq(sequence.values[i] * 2 % 5, i);
        ck_assert_uint_eq(timers[i].slot, 0);
    }
}
END_TEST

START_TEST(test_timer_starts_anew_for_another_time)
{
    mcp_timer_t timer = { .fn = on_timer };

    mcp_clock_set(1000);
    sequence.count = 0;
    mcp_timer_start(loop, &timer, 2000);
    mcp_timer_start(loop, &timer, 9000);
    mcp_clock_set(5000);
    run_once();
    ck_assert_int_eq(calls, 0);
    mcp_timer_start(loop, &timer, 4000);
    run_once();
    ck_assert_int_eq(calls, 1);
    run_once();
    ck_assert_int_eq(calls, 1);
    mcp_timer_stop(loop, &timer);
}
END_TEST

static mcp_timer_t pair[2];

static void stop_the_other(mcp_timer_t *timer)
{
    calls++;
    mcp_timer_stop(loop, timer == &pair[0] ? &pair[1] : &pair[0]);
}

START_TEST(test_timer_stopped_by_another_that_is_due_too_does_not_run)
{
    memset(pair, 0, sizeof(pair));
    mcp_clock_set(1000);
    pair[0].fn = pair[1].fn = stop_the_other;
    mcp_timer_start(loop, &pair[0], 500);
    mcp_timer_start(loop, &pair[1], 500);
    run_once();
    ck_assert_int_eq(calls, 1);
}
END_TEST

static void start_self(mcp_timer_t *timer)
{
    calls++;
    mcp_timer_start(loop, timer, 0);
}

START_TEST(test_timer_that_is_always_due_does_not_starve_the_rest)
{
    mcp_timer_t timer = { .fn = start_self };

    mcp_timer_start(loop, &timer, 0);
    run_once();
    ck_assert_int_eq(calls, 1);
    run_once();
    ck_assert_int_eq(calls, 2);
    mcp_timer_stop(loop, &timer);
}
END_TEST

static void stop_on_timer(mcp_timer_t *timer)
{
    mcp_loop_stop(loop);
}

START_TEST(test_idle_loop_wakes_for_a_timer_on_the_real_clock)
{
    mcp_timer_t timer = { .fn = stop_on_timer };
    apr_time_t due = mcp_clock_now() + 3500;

    mcp_timer_start(loop, &timer, due);
    mcp_loop_run(loop);
    ck_assert(mcp_loop_now(loop) >= due);
}
END_TEST

static apr_time_t last_when;

static void check_order(mcp_timer_t *timer)
{
    ck_assert(timer->when >= last_when);
    last_when = timer->when;
    calls++;
}

START_TEST(test_many_timers_run_each_once_in_order_and_stopped_ones_never)
{
    mcp_timer_t *timers = calloc(TIMERS, sizeof(*timers));
    int i, expected = TIMERS;

    srandom(7);
    mcp_clock_set(1);
    last_when = 0;
    for (i = 0; i < TIMERS; i++) {
        timers[i].fn = check_order;
        mcp_timer_start(loop, &timers[i], 1000 + random() % 5000);
    }
    for (i = 0; i < TIMERS; i++) {
        if (random() % 3 == 0) {
            mcp_timer_stop(loop, &timers[i]);
            timers[i].fn = NULL;
            expected--;
        } else if (random() % 3 == 0) {
            mcp_timer_start(loop, &timers[i], 1000 + random() % 5000);
        }
    }
    mcp_clock_set(10000);
    run_once();
    ck_assert_int_eq(calls, expected);
    free(timers);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mcp_loop_timers");
    TCase *tc = tcase_create("timers");

    tcase_add_checked_fixture(tc, open_loop, close_loop);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_timers_run_when_due_in_order_of_time);
    tcase_add_test(tc, test_timer_starts_anew_for_another_time);
    tcase_add_test(tc, test_timer_stopped_by_another_that_is_due_too_does_not_run);
    tcase_add_test(tc, test_timer_that_is_always_due_does_not_starve_the_rest);
    tcase_add_test(tc, test_idle_loop_wakes_for_a_timer_on_the_real_clock);
    tcase_add_test(tc, test_many_timers_run_each_once_in_order_and_stopped_ones_never);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
