/* SPDX-License-Identifier: Apache-2.0 */
/* The token bucket: what it may give out, and that a wait is true to the microsecond. */
#include <stdlib.h>

#include <check.h>

#include "mcp_rl_bucket.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define START (SECOND * 1000)

static mcp_rl_rule_t rule_of(apr_int64_t amount, apr_interval_time_t period, apr_int64_t burst)
{
    mcp_rl_rule_t rule = { .limit = MCP_RL_MESSAGES, .kind = MCP_RL_BUCKET, .amount = amount,
                           .period = period, .burst = burst };

    return rule;
}

static int ask(const mcp_rl_rule_t *rule, mcp_rl_bucket_t *bucket, apr_int64_t cost,
               apr_time_t now, mcp_rl_verdict_t *verdict)
{
    mcp_rl_bucket_judge(rule, bucket, cost, now, verdict);
    if (verdict->allowed) {
        mcp_rl_bucket_take(rule, bucket, cost, now);
    }
    return verdict->allowed;
}

static const struct {
    apr_int64_t amount, period, burst;
} shapes[] = {
    { 200, 60 * SECOND, 50 }, { 1, SECOND, 1 }, { 7, 60 * SECOND, 3 }, { 1, 86400 * SECOND, 5 },
    { 1000000000, SECOND, 1000000000 }, { 3, 1000, 1 }, { 1, 366 * 86400 * SECOND, 1000000000 },
    { 1000000000, 366 * 86400 * SECOND, 2 }
};

START_TEST(gives_out_no_more_than_refill_and_capacity)
{
    mcp_rl_rule_t rule = rule_of(shapes[_i].amount, shapes[_i].period, shapes[_i].burst);
    mcp_rl_bucket_t bucket = { 0 };
    mcp_rl_verdict_t verdict;
    apr_time_t now = START;
    long double given = 0;
    int step;

    srand(1);
    for (step = 0; step < 200000; step++) {
        apr_int64_t cost = 1 + rand() % (rule.burst < 9 ? (int)rule.burst : 9);

        now += rand() % (int)(rule.period / rule.amount * 3 % 1000000000 + 3);
        given += ask(&rule, &bucket, cost, now, &verdict) ? cost : 0;
        ck_assert(given <= rule.burst
                  + (long double)(now - START) * rule.amount / rule.period + 1e-6L);
    }
}
END_TEST

START_TEST(admits_after_the_wait_it_told_and_not_much_earlier)
{
    mcp_rl_rule_t rule = rule_of(shapes[_i].amount, shapes[_i].period, shapes[_i].burst);
    mcp_rl_verdict_t verdict;
    apr_time_t now = START;
    int step;

    srand(2);
    for (step = 0; step < 2000; step++) {
        mcp_rl_bucket_t bucket = { rand() % MCP_RL_MICRO, START }, copy;
        apr_interval_time_t wait;

        now = START + rand() % 5;
        if (ask(&rule, &bucket, 1, now, &verdict)) {
            continue;
        }
        wait = verdict.wait;
        copy = bucket;
        ck_assert(ask(&rule, &copy, 1, now + wait, &verdict));
        if (wait > rule.period / rule.amount / 1000 + 4) {
            ck_assert(!ask(&rule, &bucket, 1,
                           now + wait - rule.period / rule.amount / 1000 - 4, &verdict));
        }
    }
}
END_TEST

START_TEST(starts_full_and_is_full_again_after_its_reset)
{
    mcp_rl_rule_t rule = rule_of(200, 60 * SECOND, 50);
    mcp_rl_bucket_t bucket = { 0 };
    mcp_rl_verdict_t verdict;
    int i;

    for (i = 50; i > 0; i--) {
        ck_assert(ask(&rule, &bucket, 1, START, &verdict));
        ck_assert_int_eq(verdict.remaining, i - 1);
    }
    ck_assert(!ask(&rule, &bucket, 1, START, &verdict));
    mcp_rl_bucket_judge(&rule, &bucket, 1, START + verdict.reset, &verdict);
    ck_assert_int_eq(verdict.remaining, 49);
}
END_TEST

START_TEST(a_client_that_asks_all_the_time_is_not_starved)
{
    mcp_rl_rule_t rule = rule_of(1, 3600 * SECOND, 1);
    mcp_rl_bucket_t bucket = { 0 };
    mcp_rl_verdict_t verdict;
    apr_time_t now;
    int given = 0;

    for (now = START; now <= START + 3601 * SECOND; now += 1000) {
        given += ask(&rule, &bucket, 1, now, &verdict);
    }
    ck_assert_int_eq(given, 2);
}
END_TEST

START_TEST(what_costs_more_than_the_capacity_never_passes)
{
    mcp_rl_rule_t rule = rule_of(10, SECOND, 10);
    mcp_rl_bucket_t bucket = { 0 };
    mcp_rl_verdict_t verdict;

    ck_assert(!ask(&rule, &bucket, 11, START, &verdict));
    ck_assert(verdict.wait > 0);
    ck_assert_int_eq(verdict.wait_one, 0);
    ck_assert(ask(&rule, &bucket, 10, START, &verdict));
}
END_TEST

START_TEST(a_clock_that_went_back_gives_nothing_out)
{
    mcp_rl_rule_t rule = rule_of(10, SECOND, 10);
    mcp_rl_bucket_t bucket = { 0, START };
    mcp_rl_verdict_t verdict;

    ck_assert(!ask(&rule, &bucket, 1, START - 5 * SECOND, &verdict));
    ck_assert(!ask(&rule, &bucket, 1, START, &verdict));
    ck_assert(ask(&rule, &bucket, 1, START + SECOND / 10 + 3, &verdict));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("bucket");
    Suite *suite = suite_create("mcp_rl_bucket");
    int n = sizeof(shapes) / sizeof(*shapes);

    tcase_add_loop_test(tcase, gives_out_no_more_than_refill_and_capacity, 0, n);
    tcase_add_loop_test(tcase, admits_after_the_wait_it_told_and_not_much_earlier, 0, n);
    tcase_add_test(tcase, starts_full_and_is_full_again_after_its_reset);
    tcase_add_test(tcase, a_client_that_asks_all_the_time_is_not_starved);
    tcase_add_test(tcase, what_costs_more_than_the_capacity_never_passes);
    tcase_add_test(tcase, a_clock_that_went_back_gives_nothing_out);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
