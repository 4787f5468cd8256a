/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed and sliding windows: counts, blocks, waits. */
#include <stdlib.h>

#include <check.h>

#include "mcp_rl_window.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define START (SECOND * 1000)

static mcp_rl_rule_t rule_of(mcp_rl_kind_e kind, apr_int64_t amount, apr_interval_time_t period,
                             apr_interval_time_t block)
{
    mcp_rl_rule_t rule = { .limit = MCP_RL_WINDOW, .kind = kind, .amount = amount,
                           .period = period, .block = block };

    return rule;
}

static int ask_fixed(const mcp_rl_rule_t *rule, mcp_rl_fixed_t *window, mcp_rl_mode_e mode,
                     apr_time_t now, mcp_rl_verdict_t *verdict)
{
    mcp_rl_fixed_judge(rule, window, mode, 1, now, verdict);
    if (verdict->allowed) {
        mcp_rl_fixed_take(rule, window, mode, 1, now);
    }
    else {
        mcp_rl_fixed_refuse(rule, window, now);
    }
    return verdict->allowed;
}

static int ask_sliding(const mcp_rl_rule_t *rule, mcp_rl_sliding_t *log, apr_int64_t cost,
                       apr_time_t now, mcp_rl_verdict_t *verdict)
{
    mcp_rl_sliding_judge(rule, log, cost, now, verdict);
    if (verdict->allowed) {
        mcp_rl_sliding_take(rule, log, cost, now);
    }
    else {
        mcp_rl_sliding_refuse(rule, log, now);
    }
    return verdict->allowed;
}

START_TEST(a_fixed_window_admits_n_until_it_ends)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_FIXED, 3, 10 * SECOND, 0);
    mcp_rl_fixed_t window = { 0 };
    mcp_rl_verdict_t v;
    int i;

    for (i = 0; i < 3; i++) {
        ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START + i * SECOND, &v));
        ck_assert_int_eq(v.remaining, 2 - i);
    }
    ck_assert(!ask_fixed(&rule, &window, MCP_RL_TAKE, START + 4 * SECOND, &v));
    ck_assert_int_eq(v.wait, 6 * SECOND);
    ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START + 10 * SECOND, &v));
}
END_TEST

START_TEST(a_block_begins_when_the_limit_is_hit_and_is_not_prolonged)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_FIXED, 1, 10 * SECOND, 60 * SECOND);
    mcp_rl_fixed_t window = { 0 };
    mcp_rl_verdict_t v;

    ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START, &v));
    ck_assert(!ask_fixed(&rule, &window, MCP_RL_TAKE, START + SECOND, &v));
    ck_assert_int_eq(v.wait, 60 * SECOND);
    ck_assert(!ask_fixed(&rule, &window, MCP_RL_TAKE, START + 31 * SECOND, &v));
    ck_assert_int_eq(v.wait, 30 * SECOND);
    ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START + 61 * SECOND, &v));
}
END_TEST

START_TEST(looking_charges_nothing_and_refuses_what_taking_would)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_FIXED, 1, 10 * SECOND, 0);
    mcp_rl_fixed_t window = { 0 };
    mcp_rl_verdict_t v;

    ck_assert(ask_fixed(&rule, &window, MCP_RL_LOOK, START, &v));
    ck_assert(ask_fixed(&rule, &window, MCP_RL_LOOK, START, &v));
    ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START, &v));
    ck_assert(!ask_fixed(&rule, &window, MCP_RL_LOOK, START, &v));
}
END_TEST

START_TEST(recording_never_refuses_and_blocks_at_the_nth)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_FIXED, 2, 10 * SECOND, 60 * SECOND);
    mcp_rl_fixed_t window = { 0 };
    mcp_rl_verdict_t v;

    ck_assert(ask_fixed(&rule, &window, MCP_RL_RECORD, START, &v));
    ck_assert_int_eq(v.wait_one, 0);
    ck_assert(ask_fixed(&rule, &window, MCP_RL_RECORD, START, &v));
    ck_assert_int_eq(v.wait_one, 60 * SECOND);
    ck_assert(!ask_fixed(&rule, &window, MCP_RL_TAKE, START + 59 * SECOND, &v));
    ck_assert(ask_fixed(&rule, &window, MCP_RL_TAKE, START + 60 * SECOND, &v));
}
END_TEST

START_TEST(no_stretch_of_a_sliding_window_sees_more_than_n)
{
    static const int amounts[] = { 1, 5, 16, 17, 100 };
    mcp_rl_rule_t rule = rule_of(MCP_RL_SLIDING, amounts[_i], 10 * SECOND, 0);
    static apr_time_t times[200000];
    mcp_rl_sliding_t log = { 0 };
    mcp_rl_verdict_t v;
    apr_time_t now = START;
    int step, n = 0;

    srand(3);
    for (step = 0; step < 100000; step++) {
        now += rand() % (2 * 10 * 1000000 / amounts[_i]);
        if (ask_sliding(&rule, &log, 1, now, &v)) {
            times[n] = now;
            if (n >= amounts[_i]) {
                ck_assert_int_ge(times[n] - times[n - amounts[_i]], rule.period);
            }
            n++;
        }
        else {
            mcp_rl_sliding_t later = log;

            ck_assert(ask_sliding(&rule, &later, 1, now + v.wait, &v));
        }
    }
    ck_assert_int_gt(n, step / 4);
}
END_TEST

START_TEST(a_sliding_window_of_few_is_exact_to_the_microsecond)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_SLIDING, 2, SECOND, 0);
    mcp_rl_sliding_t log = { 0 };
    mcp_rl_verdict_t v;

    ck_assert(ask_sliding(&rule, &log, 1, START, &v));
    ck_assert(ask_sliding(&rule, &log, 1, START + 10, &v));
    ck_assert(!ask_sliding(&rule, &log, 1, START + SECOND - 1, &v));
    ck_assert_int_eq(v.wait, 1);
    ck_assert(ask_sliding(&rule, &log, 1, START + SECOND, &v));
    ck_assert(!ask_sliding(&rule, &log, 1, START + SECOND + 9, &v));
    ck_assert(ask_sliding(&rule, &log, 1, START + SECOND + 10, &v));
}
END_TEST

START_TEST(a_sliding_window_blocks_too)
{
    mcp_rl_rule_t rule = rule_of(MCP_RL_SLIDING, 1, SECOND, 5 * SECOND);
    mcp_rl_sliding_t log = { 0 };
    mcp_rl_verdict_t v;

    ck_assert(ask_sliding(&rule, &log, 1, START, &v));
    ck_assert(!ask_sliding(&rule, &log, 1, START + 1, &v));
    ck_assert(!ask_sliding(&rule, &log, 1, START + 4 * SECOND, &v));
    ck_assert(ask_sliding(&rule, &log, 1, START + 5 * SECOND + 1, &v));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("window");
    Suite *suite = suite_create("mcp_rl_window");

    tcase_add_test(tcase, a_fixed_window_admits_n_until_it_ends);
    tcase_add_test(tcase, a_block_begins_when_the_limit_is_hit_and_is_not_prolonged);
    tcase_add_test(tcase, looking_charges_nothing_and_refuses_what_taking_would);
    tcase_add_test(tcase, recording_never_refuses_and_blocks_at_the_nth);
    tcase_add_loop_test(tcase, no_stretch_of_a_sliding_window_sees_more_than_n, 0, 5);
    tcase_add_test(tcase, a_sliding_window_of_few_is_exact_to_the_microsecond);
    tcase_add_test(tcase, a_sliding_window_blocks_too);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
