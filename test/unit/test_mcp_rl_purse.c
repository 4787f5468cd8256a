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

static void setup(void)
{
    purses = mcp_rl_purses_at(calloc(1, mcp_rl_purses_size()));
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

START_TEST(only_large_buckets_that_ask_all_the_time_get_a_loan)
{
    mcp_rl_rule_t small = rule;
    mcp_rl_ask_t other = ask;

    small.burst = MCP_RL_LEND_MIN_BURST - 1;
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
    for (i = 0; i < 2; i++) {
        ck_assert(pay(START + 2 * MS));
    }
    ck_assert(!pay(START + 2 * MS)); /* half is left for the others */
    ck_assert_int_eq(loan.settle, 2);
    ck_assert_int_eq(loan.generation, 7);
    ck_assert(pay(START + 2 * MS));
    fill(START + 2 * MS, 8, 7, SECOND);
    for (i = 0; i < 5; i++) {
        ck_assert(pay(START + 3 * MS));
    }
    ck_assert(!pay(START + 3 * MS));
    ck_assert_int_eq(loan.settle, 6);
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
static double tokens = BURST;
static apr_time_t last = START;
static apr_int64_t lent, generation;
static apr_time_t lent_until;

static int redis(apr_time_t now, mcp_rl_loan_t *l)
{
    double cap;

    if (lent_until <= now) {
        lent = 0;
        lent_until = 0;
    }
    if (l->settle && l->generation == generation) {
        lent -= l->settle < lent ? l->settle : lent;
    }
    cap = BURST - (double)lent;
    tokens += (double)(now - last) * BURST / SECOND;
    tokens = tokens < cap ? tokens : cap;
    last = now;
    l->given = l->left = 0;
    if (tokens < 1) {
        return 0;
    }
    tokens -= 1;
    if (l->want && tokens >= 4.0 * (double)l->want) {
        if (!lent_until) {
            generation++;
            lent_until = now + SECOND;
        }
        tokens -= (double)l->want;
        lent += l->want;
        l->given = l->want;
        l->generation = generation;
        l->left = lent_until - now;
    }
    return 1;
}

START_TEST(purses_and_bucket_together_give_out_no_more_than_the_bucket_alone)
{
    static apr_time_t given[400000];
    mcp_rl_purses_t *two[2] = { purses, calloc(1, mcp_rl_purses_size()) };
    apr_time_t now = START;
    int n = 0, step, i;

    srand(4);
    for (step = 0; step < 300000; step++) {
        /* Bursts and pauses. */
        now += rand() % 1000 ? rand() % 600 : rand() % (2 * (int)SECOND);
        purses = two[rand() % 2];
        if (pay(now)) {
            given[n++] = now;
        }
        else {
            mcp_rl_loan_t asked = loan;
            int ok = redis(now, &asked);

            if (ok) {
                given[n++] = now;
            }
            if (loan.want && rand() % 50) { /* some answers are lost */
                mcp_rl_verdict_t v = { .allowed = ok };

                mcp_rl_purse_fill(purses, &ask, now, &v, &asked);
            }
        }
    }
    purses = two[0];
    free(two[1]);
    ck_assert_int_gt(n, 100000);
    /* Each start against all ends: the excess over the refill never rises by more than BURST. */
    {
        double least = 0;

        for (i = 0; i < n; i++) {
            double level = i - (double)(given[i] - START) * BURST / SECOND;

            least = level < least ? level : least;
            ck_assert_msg(level + 1 - least <= BURST + 1e-6, "%d", i);
        }
    }
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("purse");
    Suite *suite = suite_create("mcp_rl_purse");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, only_large_buckets_that_ask_all_the_time_get_a_loan);
    tcase_add_test(tcase, what_was_lent_is_paid_out_once_and_in_time_only);
    tcase_add_test(tcase, a_loan_settles_what_was_spent_of_the_last_one);
    tcase_add_test(tcase, another_generation_voids_what_is_left_of_the_last);
    tcase_add_test(tcase, purses_and_bucket_together_give_out_no_more_than_the_bucket_alone);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
