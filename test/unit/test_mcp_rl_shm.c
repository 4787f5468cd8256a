/* SPDX-License-Identifier: Apache-2.0 */
/* The shared-memory store: several limits at once, bounds, processes that die. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "mcp_rl_shm.h"
#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define START (SECOND * 1000)
#define ENTRIES 2048

static mcp_rl_shm_t *shm;

static const mcp_rl_rule_t bucket = { .limit = MCP_RL_MESSAGES, .kind = MCP_RL_BUCKET,
                                      .amount = 5, .period = 3600 * SECOND, .burst = 5 };
static const mcp_rl_rule_t window = { .limit = MCP_RL_WINDOW, .kind = MCP_RL_FIXED, .amount = 2,
                                      .period = 3600 * SECOND };

static void setup(void)
{
    size_t size = mcp_rl_shm_size(ENTRIES);
    void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    ck_assert(mem != MAP_FAILED);
    ck_assert_int_eq(mcp_rl_shm_init(&shm, mem, ENTRIES), APR_SUCCESS);
}

static mcp_rl_ask_t ask_of(const mcp_rl_rule_t *rule, const char *key)
{
    mcp_rl_ask_t ask = { .rule = rule, .mode = MCP_RL_TAKE, .cost = 1, .key = key };

    mcp_rl_digest(key, ask.digest);
    return ask;
}

static int take(const mcp_rl_rule_t *rule, const char *key, apr_time_t now)
{
    mcp_rl_ask_t ask = ask_of(rule, key);
    mcp_rl_verdict_t verdict;

    ck_assert_int_eq(mcp_rl_shm_decide(shm, &ask, 1, now, &verdict), APR_SUCCESS);
    return verdict.allowed;
}

START_TEST(all_are_charged_or_none)
{
    mcp_rl_ask_t asks[2] = { ask_of(&bucket, "b"), ask_of(&window, "w") };
    mcp_rl_verdict_t v[2];
    int i;

    for (i = 0; i < 10; i++) {
        ck_assert_int_eq(mcp_rl_shm_decide(shm, asks, 2, START, v), APR_SUCCESS);
        ck_assert_int_eq(mcp_rl_refusal(v, 2), i < 2 ? -1 : 1);
    }
    for (i = 0; i < 4; i++) {
        ck_assert_int_eq(take(&bucket, "b", START), i < 3);
    }
}
END_TEST

START_TEST(the_same_name_under_two_kinds_is_two_keys)
{
    ck_assert(take(&window, "w", START) && take(&window, "w", START));
    ck_assert(!take(&window, "w", START));
    ck_assert(take(&bucket, "b", START));
}
END_TEST

START_TEST(who_is_refused_stays_refused_however_many_others_come)
{
    char key[32];
    int i, full = 0;

    for (i = 0; i < 5; i++) {
        ck_assert(take(&bucket, "victim", START));
    }
    ck_assert(!take(&bucket, "victim", START));
    for (i = 0; i < 100000; i++) {
        mcp_rl_ask_t ask;
        mcp_rl_verdict_t verdict;

        snprintf(key, sizeof(key), "other%d", i);
        ask = ask_of(&bucket, key);
        full += mcp_rl_shm_decide(shm, &ask, 1, START + i, &verdict) != APR_SUCCESS;
    }
    ck_assert_int_eq(full, 0);
    ck_assert(!take(&bucket, "victim", START + i));
}
END_TEST

START_TEST(a_table_of_refusals_says_that_it_is_full)
{
    char key[32];
    int i, full = 0;

    for (i = 0; i < 4 * ENTRIES; i++) {
        mcp_rl_ask_t ask;
        mcp_rl_verdict_t verdict;
        apr_status_t rv;

        snprintf(key, sizeof(key), "k%d", i);
        ask = ask_of(&bucket, key);
        ask.cost = 5;
        rv = mcp_rl_shm_decide(shm, &ask, 1, START, &verdict);
        ck_assert(rv == APR_SUCCESS || rv == APR_ENOSPC);
        full += rv == APR_ENOSPC;
    }
    ck_assert_int_eq(full, 3 * ENTRIES);
    ck_assert(take(&bucket, "k-late", START + 3600 * SECOND * 2));
}
END_TEST

START_TEST(processes_share_one_bucket_and_may_die_at_any_point)
{
    int *admitted = mmap(NULL, sizeof(*admitted), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    static const mcp_rl_rule_t big = { .limit = MCP_RL_MESSAGES, .kind = MCP_RL_BUCKET,
                                       .amount = 1000000, .period = 3600 * 24 * SECOND,
                                       .burst = 1000000 };
    pid_t pid[4];
    int round, i;

    ck_assert(admitted != MAP_FAILED);
    for (round = 0; round < 25; round++) {
        for (i = 0; i < 4; i++) {
            pid[i] = fork();
            if (pid[i] == 0) {
                mcp_rl_ask_t ask = ask_of(&big, "shared");
                mcp_rl_verdict_t v;

                for (;;) {
                    if (mcp_rl_shm_decide(shm, &ask, 1, START, &v) == APR_SUCCESS && v.allowed) {
                        __atomic_add_fetch(admitted, 1, __ATOMIC_RELAXED);
                    }
                }
            }
        }
        usleep(3000);
        for (i = 0; i < 4; i++) {
            kill(pid[i], SIGKILL);
            waitpid(pid[i], NULL, 0);
        }
    }
    i = *admitted;
    ck_assert_int_gt(i, 100);
    while (take(&big, "shared", START)) {
        i++;
    }
    /* A process may have died between the charge and our count of it, once each. */
    ck_assert_int_le(i, 1000000);
    ck_assert_int_ge(i, 1000000 - 4 * 25);
}
END_TEST

/* Five hundred times what the table holds: who has used up a bucket does not get a new one. */
START_TEST(a_million_users_free_nobody_who_used_up_his_bucket)
{
    mcp_rl_verdict_t verdict;
    mcp_rl_ask_t ask;
    char key[40];
    int i, allowed = 0, full = 0;

    for (i = 0; i < 5; i++) {
        ck_assert(take(&bucket, "spent", START));
    }
    for (i = 0; i < 4; i++) {
        ck_assert(take(&bucket, "nearly", START));
    }
    for (i = 0; i < 1000000; i++) {
        snprintf(key, sizeof(key), "user%d", i);
        ask = ask_of(&bucket, key);
        if (mcp_rl_shm_decide(shm, &ask, 1, START + i, &verdict) == APR_SUCCESS) {
            allowed += verdict.allowed;
        }
        else {
            full++;
        }
    }
    ck_assert_int_eq(allowed, 1000000);
    ck_assert_int_eq(full, 0);
    ck_assert(!take(&bucket, "spent", START + i));
    ck_assert(take(&bucket, "nearly", START + i));
    ck_assert(!take(&bucket, "nearly", START + i));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("shm");
    Suite *suite = suite_create("mcp_rl_shm");

    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, a_million_users_free_nobody_who_used_up_his_bucket);
    tcase_add_test(tcase, all_are_charged_or_none);
    tcase_add_test(tcase, the_same_name_under_two_kinds_is_two_keys);
    tcase_add_test(tcase, who_is_refused_stays_refused_however_many_others_come);
    tcase_add_test(tcase, a_table_of_refusals_says_that_it_is_full);
    tcase_add_test(tcase, processes_share_one_bucket_and_may_die_at_any_point);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
