/* SPDX-License-Identifier: Apache-2.0 */
/* The lease table and the table of refusals: counts, orphans, processes that die. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "mcp_rl_deny.h"
#include "mcp_rl_lease.h"
#include "run_suite.h"

#define ROWS 64
#define SECOND APR_USEC_PER_SEC
#define START (SECOND * 1000)

static mcp_rl_leases_t *leases;
static mcp_rl_deny_t *deny;
static const mcp_rl_rule_t rule = { .limit = MCP_RL_STREAMS, .kind = MCP_RL_SLOTS, .amount = 5 };

static void *shared(size_t size)
{
    void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    ck_assert(mem != MAP_FAILED);
    return mem;
}

static void setup(void)
{
    void *mem = shared(mcp_rl_leases_size(ROWS));

    ck_assert_int_eq(mcp_rl_leases_init(&leases, mem, ROWS, "here"), APR_SUCCESS);
    deny = mcp_rl_deny_at(shared(mcp_rl_deny_size()));
}

static mcp_rl_ask_t ask_of(const char *key)
{
    mcp_rl_ask_t ask = { .rule = &rule, .mode = MCP_RL_TAKE, .cost = 1, .key = key };

    mcp_rl_digest(key, ask.digest);
    return ask;
}

static apr_status_t begin(const char *key, apr_int64_t limit, pid_t pid, mcp_rl_row_t **row,
                          apr_int64_t *held)
{
    mcp_rl_ask_t ask = ask_of(key);
    apr_uint64_t over[MCP_RL_OVER];

    return mcp_rl_lease_begin(leases, &ask, limit, pid, row, held, over);
}

static mcp_rl_row_t *hold(const char *key, pid_t pid)
{
    mcp_rl_row_t *row;
    apr_int64_t held;

    ck_assert_int_eq(begin(key, 0, pid, &row, &held), APR_SUCCESS);
    ck_assert(mcp_rl_lease_change(row, MCP_RL_ROW_PENDING, MCP_RL_ROW_HELD));
    return row;
}

START_TEST(a_limit_counts_pending_and_held_rows_of_its_key)
{
    mcp_rl_row_t *row, *first = hold("a", 1);
    apr_int64_t held;

    hold("b", 1);
    ck_assert_int_eq(begin("a", 2, 1, &row, &held), APR_SUCCESS);
    ck_assert_int_eq(held, 1);
    ck_assert_int_eq(begin("a", 2, 1, &row, &held), APR_EAGAIN);
    ck_assert_ptr_null(row);
    ck_assert(mcp_rl_lease_change(first, MCP_RL_ROW_HELD, MCP_RL_ROW_RELEASING));
    ck_assert_int_eq(begin("a", 2, 1, &row, &held), APR_SUCCESS);
    ck_assert_int_eq(mcp_rl_leases_in_use(leases), 3);
}
END_TEST

START_TEST(leases_that_are_over_but_not_told_are_listed)
{
    mcp_rl_ask_t ask = ask_of("a");
    mcp_rl_row_t *row, *first = hold("a", 1);
    apr_uint64_t over[MCP_RL_OVER];
    apr_int64_t held;

    mcp_rl_lease_change(first, MCP_RL_ROW_HELD, MCP_RL_ROW_RELEASING);
    ck_assert_int_eq(mcp_rl_lease_begin(leases, &ask, 0, 1, &row, &held, over), APR_SUCCESS);
    ck_assert_int_eq(over[0], first->number);
    ck_assert_int_eq(over[1], 0);
}
END_TEST

START_TEST(a_full_table_takes_no_more_and_recovers)
{
    mcp_rl_row_t *rows[ROWS], *row;
    apr_int64_t held;
    int i;

    for (i = 0; i < ROWS; i++) {
        rows[i] = hold("a", 1);
    }
    ck_assert_int_eq(begin("a", 0, 1, &row, &held), APR_ENOSPC);
    ck_assert_int_eq(mcp_rl_lease_free(leases, rows[7], rows[7]->number), APR_SUCCESS);
    ck_assert_int_eq(begin("a", 0, 1, &row, &held), APR_SUCCESS);
    ck_assert_ptr_eq(row, rows[7]);
    ck_assert_int_eq(held, ROWS - 1);
}
END_TEST

START_TEST(a_row_is_freed_only_as_the_lease_it_was)
{
    mcp_rl_row_t *row = hold("a", 1), *again;
    apr_uint64_t number = row->number;

    mcp_rl_lease_free(leases, row, number);
    again = hold("b", 1);
    ck_assert_ptr_eq(again, row);
    mcp_rl_lease_free(leases, row, number);
    ck_assert_int_eq(mcp_rl_lease_state(again), MCP_RL_ROW_HELD);
}
END_TEST

START_TEST(a_dead_childs_rows_count_no_more_and_are_adopted_once)
{
    mcp_rl_row_t *rows[ROWS], *row;
    apr_uint64_t numbers[ROWS];
    apr_int64_t held;

    hold("a", 100);
    hold("a", 100);
    hold("a", 200);
    ck_assert_int_eq(mcp_rl_lease_child_died(leases, 100), 2);
    ck_assert_int_eq(begin("a", 0, 200, &row, &held), APR_SUCCESS);
    ck_assert_int_eq(held, 1);
    ck_assert_int_eq(mcp_rl_lease_adopt_orphans(leases, 200, rows, numbers, ROWS), 2);
    ck_assert_int_eq(mcp_rl_lease_adopt_orphans(leases, 200, rows, numbers, ROWS), 0);
    mcp_rl_lease_orphan_again(leases, rows[0], numbers[0]);
    ck_assert_int_eq(mcp_rl_lease_adopt_orphans(leases, 200, rows, numbers, ROWS), 1);
}
END_TEST

START_TEST(rows_of_processes_that_are_no_more_are_found)
{
    mcp_rl_row_t *rows[ROWS];
    apr_uint64_t numbers[ROWS];
    pid_t gone = fork();

    if (gone == 0) {
        _exit(0);
    }
    waitpid(gone, NULL, 0);
    hold("a", gone);
    hold("a", getpid());
    mcp_rl_lease_find_dead(leases);
    ck_assert_int_eq(mcp_rl_lease_adopt_orphans(leases, getpid(), rows, numbers, ROWS), 1);
}
END_TEST

static void churn(void)
{
    mcp_rl_row_t *mine[8];
    apr_int64_t held;
    int i;

    for (;;) {
        for (i = 0; i < 8; i++) {
            if (begin(i % 2 ? "odd" : "even", 0, getpid(), &mine[i], &held) == APR_SUCCESS) {
                mcp_rl_lease_change(mine[i], MCP_RL_ROW_PENDING, MCP_RL_ROW_HELD);
            }
        }
        for (i = 0; i < 8; i++) {
            if (mine[i]) {
                mcp_rl_lease_free(leases, mine[i], mine[i]->number);
            }
        }
    }
}

START_TEST(no_row_is_lost_however_processes_die)
{
    mcp_rl_row_t *rows[ROWS];
    apr_uint64_t numbers[ROWS];
    int round, i, n;

    for (round = 0; round < 200; round++) {
        pid_t pid[3];

        for (i = 0; i < 3; i++) {
            pid[i] = fork();
            if (pid[i] == 0) {
                churn();
            }
        }
        usleep(1500);
        for (i = 0; i < 3; i++) {
            kill(pid[i], SIGKILL);
            waitpid(pid[i], NULL, 0);
            mcp_rl_lease_child_died(leases, pid[i]);
        }
        n = mcp_rl_lease_adopt_orphans(leases, getpid(), rows, numbers, ROWS);
        for (i = 0; i < n; i++) {
            ck_assert_int_eq(mcp_rl_lease_free(leases, rows[i], numbers[i]), APR_SUCCESS);
        }
        ck_assert_int_eq(mcp_rl_leases_in_use(leases), 0);
    }
    for (i = 0; i < ROWS; i++) {
        hold("a", 1);
    }
}
END_TEST

START_TEST(a_refusal_is_known_until_its_time_is_up)
{
    mcp_rl_rule_t bucket = { .kind = MCP_RL_BUCKET, .amount = 1, .period = SECOND, .burst = 1 };
    mcp_rl_ask_t ask = ask_of("a"), other = ask_of("b");
    mcp_rl_verdict_t verdict = { .wait_one = SECOND, .wait = SECOND, .reset = 2 * SECOND }, seen;

    ask.rule = other.rule = &bucket;
    mcp_rl_deny_put(deny, &ask, &verdict, START);
    ck_assert(mcp_rl_deny_get(deny, &ask, START + SECOND / 2, &seen));
    ck_assert_int_eq(seen.wait, SECOND / 2);
    ck_assert(!seen.allowed);
    ck_assert(!mcp_rl_deny_get(deny, &other, START, &seen));
    ck_assert(!mcp_rl_deny_get(deny, &ask, START + SECOND, &seen));
    mcp_rl_deny_put(deny, &ask, &verdict, START + 5 * SECOND);
    bucket.amount = 2;
    ck_assert(!mcp_rl_deny_get(deny, &ask, START + 5 * SECOND, &seen));
}
END_TEST

START_TEST(a_refused_stream_asks_again_soon_and_at_once_when_one_ended_here)
{
    mcp_rl_ask_t ask = ask_of("a");
    mcp_rl_verdict_t verdict = { .wait_one = 20 * SECOND, .reset = 20 * SECOND }, seen;

    mcp_rl_deny_put(deny, &ask, &verdict, START);
    ck_assert(mcp_rl_deny_get(deny, &ask, START + SECOND / 10, &seen));
    ck_assert_int_eq(seen.wait, 20 * SECOND - SECOND / 10);
    ck_assert(!mcp_rl_deny_get(deny, &ask, START + SECOND, &seen));
    mcp_rl_deny_put(deny, &ask, &verdict, START + 2 * SECOND);
    mcp_rl_deny_forget(deny, &ask);
    ck_assert(!mcp_rl_deny_get(deny, &ask, START + 2 * SECOND, &seen));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("lease");
    Suite *suite = suite_create("mcp_rl_lease");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, a_limit_counts_pending_and_held_rows_of_its_key);
    tcase_add_test(tcase, leases_that_are_over_but_not_told_are_listed);
    tcase_add_test(tcase, a_full_table_takes_no_more_and_recovers);
    tcase_add_test(tcase, a_row_is_freed_only_as_the_lease_it_was);
    tcase_add_test(tcase, a_dead_childs_rows_count_no_more_and_are_adopted_once);
    tcase_add_test(tcase, rows_of_processes_that_are_no_more_are_found);
    tcase_add_test(tcase, no_row_is_lost_however_processes_die);
    tcase_add_test(tcase, a_refusal_is_known_until_its_time_is_up);
    tcase_add_test(tcase, a_refused_stream_asks_again_soon_and_at_once_when_one_ended_here);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
