/* SPDX-License-Identifier: Apache-2.0 */
/* The purses against a bucket that lends: what both give out together, and when a loan
 * is asked for. */
#include <stdlib.h>

#include <check.h>

#include "mcp_rl_purse.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define MS 1000
#define START (SECOND * 1000)
#define BURST 1024

static mcp_rl_purses_t *purses;
static mcp_rl_rule_t rule = { .limit = MCP_RL_MESSAGES, .kind = MCP_RL_BUCKET, .amount = BURST,
                              .period = SECOND, .burst = BURST };
static mcp_rl_ask_t ask = { .rule = &rule, .mode = MCP_RL_TAKE, .cost = 1, .key = "k" };
static mcp_rl_verdict_t verdict;
static mcp_rl_loan_t loan;

static void use(apr_int64_t burst, apr_interval_time_t period)
{
    rule.amount = rule.burst = burst;
    rule.period = period;
}

static void setup(void)
{
    purses = mcp_rl_purses_at(calloc(1, mcp_rl_purses_size()));
    use(BURST, SECOND);
    mcp_rl_digest(ask.key, ask.digest);
}

static void teardown(void)
{
    free(purses);
}

static int pay(apr_time_t now)
{
    return mcp_rl_purse_pay(purses, &ask, now, &verdict, &loan);
}

static void fill(apr_time_t sent, apr_int64_t given, apr_int64_t generation,
                 apr_interval_time_t left)
{
    mcp_rl_verdict_t bucket = { .allowed = 1, .remaining = 100, .reset = SECOND };

    loan.given = given;
    loan.generation = generation;
    loan.left = left;
    mcp_rl_purse_fill(purses, &ask, sent, &bucket, &loan);
}

START_TEST(only_buckets_that_ask_all_the_time_get_a_loan)
{
    mcp_rl_rule_t small = rule;
    mcp_rl_ask_t other = ask;

    small.burst = MCP_RL_LEND_LEAST_BURST - 1;
    other.rule = &small;
    ck_assert(!mcp_rl_purse_is_for(&other));
    ck_assert(mcp_rl_purse_is_for(&ask));
    ck_assert(!pay(START));
    ck_assert_int_eq(loan.want, 0);
    ck_assert(!pay(START + SECOND));
    ck_assert_int_eq(loan.want, 0);
    ck_assert(!pay(START + SECOND + MS));
    ck_assert_int_gt(loan.want, 0);
}
END_TEST

/* Questions in a row until a loan is asked for; 0: none is. */
static int questions(apr_time_t now, apr_interval_time_t between)
{
    int i;

    for (i = 1; i <= 20; i++, now += between) {
        ck_assert(!pay(now));
        if (loan.want) {
            return i;
        }
    }
    return 0;
}

START_TEST(a_small_bucket_lends_to_who_listens_and_asks_for_long)
{
    use(50, 60 * SECOND);
    ck_assert_int_eq(questions(START, 500 * MS), 0);
    mcp_rl_purses_listen(purses, START + 100 * SECOND);
    ck_assert_int_eq(questions(START + 20 * SECOND, 3 * SECOND), 0);
    ck_assert_int_eq(questions(START + 90 * SECOND, 500 * MS), 11);
    ck_assert_int_le(loan.want, 50 / 2);
    mcp_rl_purses_listen(purses, 0);
    ck_assert_int_eq(questions(START + 95 * SECOND, 500 * MS), 0);
}
END_TEST

START_TEST(a_small_loan_is_spent_to_the_end_whenever_in_its_life)
{
    int i;

    use(50, 60 * SECOND);
    mcp_rl_purses_listen(purses, START + 100 * SECOND);
    questions(START, 500 * MS);
    fill(START + 5 * SECOND, 4, 1, 5 * SECOND);
    for (i = 0; i < 4; i++) {
        ck_assert(pay(START + (6 + i) * SECOND));
        ck_assert_int_eq(verdict.remaining, 103 - i);
    }
    ck_assert(!pay(START + 9 * SECOND));
    ck_assert_int_eq(loan.settle, 4);
    ck_assert_int_eq(loan.want, 16);
}
END_TEST

START_TEST(a_purse_is_emptied_once_and_says_what_it_owes)
{
    mcp_rl_loan_t rest;

    pay(START);
    pay(START + MS);
    fill(START + MS, 8, 7, SECOND);
    pay(START + 2 * MS);
    ck_assert(mcp_rl_purse_empty(purses, &ask, &rest));
    ck_assert_int_eq(rest.given, 7);
    ck_assert_int_eq(rest.settle, 1);
    ck_assert_int_eq(rest.generation, 7);
    ck_assert(!mcp_rl_purse_empty(purses, &ask, &rest));
    ck_assert(!pay(START + 3 * MS));
}
END_TEST

START_TEST(one_process_at_a_time_may_listen)
{
    ck_assert(mcp_rl_purses_claim(purses, START, START + SECOND));
    ck_assert(!mcp_rl_purses_claim(purses, START + MS, START + 2 * SECOND));
    mcp_rl_purses_listen(purses, START + 2 * SECOND);
    ck_assert(!mcp_rl_purses_claim(purses, START + SECOND, START + 3 * SECOND));
    mcp_rl_purses_listen(purses, 0);
    ck_assert(mcp_rl_purses_claim(purses, START + SECOND, START + 3 * SECOND));
}
END_TEST

START_TEST(what_was_lent_is_paid_out_once_and_in_time_only)
{
    int i, paid = 0;

    pay(START);
    pay(START + MS);
    fill(START + MS, 4, 1, SECOND);
    for (i = 0; i < 10; i++) {
        paid += pay(START + 2 * MS);
    }
    ck_assert_int_eq(paid, 4);
    pay(START + 300 * MS);
    pay(START + 301 * MS);
    fill(START + 301 * MS, 16, 1, SECOND);
    ck_assert(pay(START + 302 * MS));
    ck_assert(!pay(START + 301 * MS + SECOND));
}
END_TEST

START_TEST(a_loan_settles_what_was_spent_of_the_last_one)
{
    int i;

    pay(START);
    pay(START + MS);
    ck_assert_int_eq(loan.settle, 0);
    fill(START + MS, 4, 7, SECOND);
    for (i = 0; i < 4; i++) {
        ck_assert(pay(START + 2 * MS));
    }
    ck_assert(!pay(START + 2 * MS));
    ck_assert_int_eq(loan.settle, 4);
    ck_assert_int_eq(loan.generation, 7);
}
END_TEST

START_TEST(of_a_great_loan_half_is_left_for_the_others_while_one_asks)
{
    int i;

    use(256 * 64, SECOND);
    pay(START);
    pay(START + MS);
    fill(START + MS, 8, 7, SECOND);
    for (i = 0; i < 5; i++) { /* loans double as long as they are spent: 16 to 256 */
        while (pay(START + 2 * MS)) {
        }
        ck_assert_int_eq(loan.want, 16 << i);
        fill(START + 2 * MS, loan.want, 7, SECOND);
    }
    for (i = 0; pay(START + 3 * MS); i++) {
    }
    ck_assert_int_ge(i, 128);
    ck_assert_int_ge(loan.settle, 128);
    ck_assert(pay(START + 3 * MS));
}
END_TEST

START_TEST(another_generation_voids_what_is_left_of_the_last)
{
    int i, paid = 0;

    pay(START);
    pay(START + MS);
    fill(START + MS, 4, 1, SECOND);
    for (i = 0; i < 3; i++) {
        pay(START + 2 * MS);
    }
    fill(START + 3 * MS, 2, 2, SECOND);
    for (i = 0; i < 10; i++) {
        paid += pay(START + 3 * MS);
    }
    ck_assert_int_le(paid, 2);
}
END_TEST

/* The bucket's side, as mcp_rl_script.c has it. */
static double tokens;
static apr_time_t last = START;
static apr_int64_t lent, generation;
static apr_time_t lent_until;

static int is_small(void)
{
    return rule.burst < MCP_RL_LEND_LARGE_BURST;
}

/* @return 1: admitted; 3: refused for the sake of what is lent */
static int redis(apr_time_t now, mcp_rl_loan_t *l)
{
    double cap, part = is_small() ? 2 : 4;

    if (lent_until <= now) {
        lent = 0;
        lent_until = 0;
    }
    if (l->settle && l->generation == generation) {
        lent -= l->settle < lent ? l->settle : lent;
    }
    if (!lent) {
        lent_until = 0;
    }
    cap = (double)(rule.burst - lent);
    tokens += (double)(now - last) * (double)rule.amount / (double)rule.period;
    tokens = tokens < cap ? tokens : cap;
    last = now;
    l->given = l->left = 0;
    if (tokens < 1) {
        return tokens + (double)lent >= 1 ? 3 : 0;
    }
    tokens -= 1;
    if ((double)l->want > tokens / part) {
        l->want = (apr_int64_t)(tokens / part);
    }
    if (l->want > 0) {
        if (!lent_until) {
            generation++;
            lent_until = now + (is_small() ? 5 : 1) * SECOND;
        }
        tokens -= (double)l->want;
        lent += l->want;
        l->given = l->want;
        l->generation = generation;
        l->left = lent_until - now;
    }
    return 1;
}

static void recall(apr_time_t now)
{
    mcp_rl_loan_t rest;

    if (mcp_rl_purse_empty(purses, &ask, &rest) && rest.generation == generation
        && lent_until > now) {
        lent -= rest.given + rest.settle;
        lent = lent > 0 ? lent : 0;
        tokens += (double)rest.given;
        tokens = tokens < (double)(rule.burst - lent) ? tokens : (double)(rule.burst - lent);
    }
}

/* Each start against all ends: the excess over the refill never rises by more than the capacity. */
static void assert_within_the_limit(const apr_time_t *given, int n)
{
    double least = 0;
    int i;

    for (i = 0; i < n; i++) {
        double level = i - (double)(given[i] - START) * (double)rule.amount / (double)rule.period;

        least = level < least ? level : least;
        ck_assert_msg(level + 1 - least <= (double)rule.burst + 1e-6, "%d", i);
    }
}

/* Two machines, in bursts and pauses; some answers are lost. */
START_TEST(purses_and_bucket_together_give_out_no_more_than_the_bucket_alone)
{
    static apr_time_t given[400000];
    const int pace = _i ? 10000 : 300; /* a little more than the refill */
    mcp_rl_purses_t *two[2] = { purses, calloc(1, mcp_rl_purses_size()) };
    apr_time_t now = START;
    int n = 0, step, paid = 0;

    use(_i ? 100 : BURST, SECOND);
    tokens = (double)rule.burst;
    srand(4);
    for (step = 0; step < 300000; step++) {
        int answer;
        mcp_rl_loan_t asked;

        now += rand() % 1000 ? rand() % (2 * pace) : rand() % (2 * (int)SECOND);
        purses = two[rand() % 2];
        mcp_rl_purses_listen(purses, now + SECOND);
        if (pay(now)) {
            given[n++] = now;
            paid++;
            continue;
        }
        asked = loan;
        answer = redis(now, &asked);
        if (answer == 1) {
            given[n++] = now;
        }
        if (loan.want && rand() % 50) {
            mcp_rl_verdict_t v = { .allowed = answer == 1 };

            mcp_rl_purse_fill(purses, &ask, now, &v, &asked);
        }
        if (answer == 3) {
            purses = two[0];
            recall(now);
            purses = two[1];
            recall(now);
        }
    }
    purses = two[0];
    free(two[1]);
    ck_assert_int_gt(n, 100000);
    ck_assert_int_gt(paid, 50000);
    assert_within_the_limit(given, n);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("purse");
    Suite *suite = suite_create("mcp_rl_purse");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, only_buckets_that_ask_all_the_time_get_a_loan);
    tcase_add_test(tcase, what_was_lent_is_paid_out_once_and_in_time_only);
    tcase_add_test(tcase, a_loan_settles_what_was_spent_of_the_last_one);
    tcase_add_test(tcase, of_a_great_loan_half_is_left_for_the_others_while_one_asks);
    tcase_add_test(tcase, another_generation_voids_what_is_left_of_the_last);
    tcase_add_loop_test(tcase, purses_and_bucket_together_give_out_no_more_than_the_bucket_alone, 0,
                        2);
    tcase_add_test(tcase, a_small_bucket_lends_to_who_listens_and_asks_for_long);
    tcase_add_test(tcase, a_small_loan_is_spent_to_the_end_whenever_in_its_life);
    tcase_add_test(tcase, a_purse_is_emptied_once_and_says_what_it_owes);
    tcase_add_test(tcase, one_process_at_a_time_may_listen);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
