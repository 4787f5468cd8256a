/* SPDX-License-Identifier: Apache-2.0 */
/* A thread in the background: no signals, woken for work, ended in either way. */
#include "mcp_thread.h"

#include <apr_general.h>
#include <check.h>
#include <stdlib.h>

#include "run_suite.h"

#define LONG apr_time_from_sec(600)

static mcp_thread_t thread;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int work, done;

/* Counts off what it is woken for. */
static void *count_off(void *baton)
{
    const apr_interval_time_t *timeout = baton;

    pthread_mutex_lock(&mutex);
    while (!mcp_thread_is_stopped(&thread)) {
        mcp_thread_wait_locked(&thread, *timeout);
        done = work;
    }
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void wait_until_done(int number)
{
    int reached = 0;

    while (!reached) {
        pthread_mutex_lock(&mutex);
        reached = done >= number;
        pthread_mutex_unlock(&mutex);
    }
}

static void *read_mask(void *baton)
{
    pthread_sigmask(SIG_SETMASK, NULL, baton);
    return NULL;
}

START_TEST(takes_no_signals_and_leaves_its_starter_as_it_was)
{
    sigset_t mask, own;

    ck_assert_int_eq(mcp_thread_start(&thread, read_mask, &mask, &mutex), APR_SUCCESS);
    mcp_thread_stop(&thread);
    ck_assert(sigismember(&mask, SIGTERM));
    ck_assert(sigismember(&mask, SIGUSR1));
    pthread_sigmask(SIG_SETMASK, NULL, &own);
    ck_assert(!sigismember(&own, SIGTERM));
}
END_TEST

START_TEST(is_woken_for_work_and_for_its_end)
{
    apr_interval_time_t timeout = LONG;
    int i;

    ck_assert_int_eq(mcp_thread_start(&thread, count_off, &timeout, &mutex), APR_SUCCESS);
    for (i = 1; i <= 100; i++) {
        pthread_mutex_lock(&mutex);
        work = i;
        mcp_thread_wake_locked(&thread);
        pthread_mutex_unlock(&mutex);
        wait_until_done(i);
    }
    mcp_thread_stop(&thread);
    ck_assert(thread.finished);
}
END_TEST

START_TEST(does_not_wait_when_it_was_woken_before)
{
    ck_assert_int_eq(mcp_thread_start(&thread, read_mask, &(sigset_t){ 0 }, &mutex), APR_SUCCESS);
    pthread_mutex_lock(&mutex);
    mcp_thread_wake_locked(&thread);
    mcp_thread_wait_locked(&thread, LONG);
    pthread_mutex_unlock(&mutex);
    mcp_thread_stop(&thread);
}
END_TEST

START_TEST(waits_no_longer_than_it_said)
{
    apr_interval_time_t timeout = apr_time_from_msec(1);

    work = 1;
    ck_assert_int_eq(mcp_thread_start(&thread, count_off, &timeout, &mutex), APR_SUCCESS);
    wait_until_done(1);
    mcp_thread_stop(&thread);
}
END_TEST

/* A pool's own end, with the thread's: how it was when the pool's other cleanups ran. */
static apr_status_t note_finished(void *finished)
{
    *(int *)finished = thread.finished;
    return APR_SUCCESS;
}

static int end_with_pool(int waits)
{
    apr_interval_time_t timeout = waits ? LONG : apr_time_from_msec(1);
    int finished = -1;
    apr_pool_t *pool;

    apr_pool_create(&pool, NULL);
    ck_assert_int_eq(mcp_thread_start(&thread, count_off, &timeout, &mutex), APR_SUCCESS);
    mcp_thread_end_with(&thread, waits, pool);
    apr_pool_cleanup_register(pool, &finished, note_finished, apr_pool_cleanup_null);
    apr_pool_destroy(pool);
    return finished;
}

START_TEST(ends_before_the_rest_of_its_pool)
{
    ck_assert_int_eq(end_with_pool(1), 1);
}
END_TEST

START_TEST(at_an_exit_is_waited_for_without_its_lock)
{
    ck_assert_int_eq(end_with_pool(0), 1);
    pthread_join(thread.id, NULL);
}
END_TEST

START_TEST(at_an_exit_is_left_behind_when_it_does_not_end)
{
    pthread_mutex_lock(&mutex);
    ck_assert_int_eq(end_with_pool(0), 0);
    pthread_mutex_unlock(&mutex);
    pthread_join(thread.id, NULL);
}
END_TEST

int main(void)
{
    TCase *waits = tcase_create("waits"), *ends = tcase_create("ends");
    Suite *suite = suite_create("mcp_thread");

    tcase_add_test(waits, takes_no_signals_and_leaves_its_starter_as_it_was);
    tcase_add_test(waits, is_woken_for_work_and_for_its_end);
    tcase_add_test(waits, does_not_wait_when_it_was_woken_before);
    tcase_add_test(waits, waits_no_longer_than_it_said);
    tcase_add_test(ends, ends_before_the_rest_of_its_pool);
    tcase_add_test(ends, at_an_exit_is_waited_for_without_its_lock);
    tcase_add_test(ends, at_an_exit_is_left_behind_when_it_does_not_end);
    suite_add_tcase(suite, waits);
    suite_add_tcase(suite, ends);
    return run_suite(suite);
}
