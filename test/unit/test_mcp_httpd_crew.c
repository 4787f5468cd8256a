/* SPDX-License-Identifier: Apache-2.0 */
/* The crew against socket pairs, from several threads; under TSan this is where its races show. */
#include "mcp_httpd_crew.h"

#include <httpd.h>

#include <apr_general.h>
#include <apr_thread_proc.h>
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mcp_clock.h"
#include "run_suite.h"

#define THREADS 4
#define PAIRS 32
#define ROUNDS 50
#define FEEDERS 3
#define JOBS 500

typedef struct line_t {
    mcp_crew_wait_t wait;
    int far_end;
    apr_interval_time_t patience;
    atomic_int served, late, bytes;
} line_t;

static apr_pool_t *pool;
static mcp_crew_t *crew;
static line_t *lines;
static atomic_int jobs_run;

#ifndef ap_thread_create
/* httpd's, which the crew asks for, is not in this program. */
apr_status_t ap_thread_create(apr_thread_t **thread, apr_threadattr_t *attr,
                              apr_thread_start_t func, void *data, apr_pool_t *p)
{
    return apr_thread_create(thread, attr, func, data, p);
}
#endif

static void open_crew(void)
{
    int i;

    ck_assert_int_eq(apr_initialize(), APR_SUCCESS);
    ck_assert_int_eq(apr_pool_create(&pool, NULL), APR_SUCCESS);
    crew = mcp_crew_create(THREADS, pool);
    ck_assert_ptr_nonnull(crew);
    lines = calloc(PAIRS, sizeof(*lines));
    for (i = 0; i < PAIRS; i++) {
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        lines[i].wait.fd = fds[0];
        lines[i].far_end = fds[1];
    }
    jobs_run = 0;
}

static void close_crew(void)
{
    int i;

    for (i = 0; i < PAIRS; i++) {
        close(lines[i].wait.fd);
        close(lines[i].far_end);
    }
    free(lines);
    apr_pool_destroy(pool);
    apr_terminate();
}

static void become(const atomic_int *value, int wanted)
{
    apr_time_t end = mcp_clock_now() + apr_time_from_sec(30);

    while (*value != wanted) {
        ck_assert_msg(mcp_clock_now() < end, "%d instead of %d", *value, wanted);
        usleep(1000);
    }
}

static void count_job(void *baton)
{
    free(baton);
    jobs_run++;
}

static void *give_jobs(void *baton)
{
    int i;

    for (i = 0; i < JOBS; i++) {
        mcp_crew_job_t *job = malloc(sizeof(*job));

        job->fn = count_job;
        job->baton = job;
        mcp_crew_run(crew, job);
    }
    return NULL;
}

START_TEST(every_job_runs_once_whoever_gives_it)
{
    pthread_t feeders[FEEDERS];
    int i;

    for (i = 0; i < FEEDERS; i++) {
        pthread_create(&feeders[i], NULL, give_jobs, NULL);
    }
    for (i = 0; i < FEEDERS; i++) {
        pthread_join(feeders[i], NULL);
    }
    become(&jobs_run, FEEDERS * JOBS);
    mcp_crew_stop(crew);
    ck_assert_int_eq(jobs_run, FEEDERS * JOBS);
}
END_TEST

START_TEST(a_stop_finishes_the_jobs_that_were_given)
{
    give_jobs(NULL);
    mcp_crew_stop(crew);
    ck_assert_int_eq(jobs_run, JOBS);
}
END_TEST

/* Another module's threads may still run when this one's crew has ended. */
START_TEST(a_job_that_comes_after_the_end_touches_nothing)
{
    mcp_crew_job_t job = { .fn = count_job };
    apr_uint64_t count;
    int fds[8];
    unsigned i;

    mcp_crew_stop(crew);
    for (i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
        fds[i] = eventfd(0, EFD_NONBLOCK);
    }
    mcp_crew_run(crew, &job);
    for (i = 0; i < sizeof(fds) / sizeof(*fds); i++) {
        ck_assert_int_eq(read(fds[i], &count, sizeof(count)), -1);
        close(fds[i]);
    }
    ck_assert_int_eq(jobs_run, 0);
}
END_TEST

static void serve(void *baton, int is_late);

static void wait_again(line_t *line)
{
    line->wait.events = EPOLLIN | EPOLLRDHUP;
    line->wait.fn = serve;
    line->wait.baton = line;
    ck_assert_int_eq(mcp_crew_wait(crew, &line->wait, mcp_clock_now() + line->patience),
                     APR_SUCCESS);
}

static void serve(void *baton, int is_late)
{
    line_t *line = baton;
    char buf[ROUNDS];
    ssize_t n = read(line->wait.fd, buf, sizeof(buf));

    if (n > 0) {
        line->bytes += (int)n;
    }
    if (is_late) {
        line->late++;
    }
    else if (line->bytes < ROUNDS) {
        wait_again(line);
        return;
    }
    line->served = 1;
}

static void *feed(void *baton)
{
    int i, round, first = *(int *)baton;

    for (round = 0; round < ROUNDS; round++) {
        for (i = first; i < PAIRS; i += FEEDERS) {
            ck_assert_int_eq(write(lines[i].far_end, "x", 1), 1);
        }
    }
    return NULL;
}

START_TEST(a_wait_is_served_whenever_there_is_something_to_read)
{
    pthread_t feeders[FEEDERS];
    int first[FEEDERS], i;

    for (i = 0; i < PAIRS; i++) {
        lines[i].patience = apr_time_from_sec(600);
        wait_again(&lines[i]);
    }
    for (i = 0; i < FEEDERS; i++) {
        first[i] = i;
        pthread_create(&feeders[i], NULL, feed, &first[i]);
    }
    for (i = 0; i < FEEDERS; i++) {
        pthread_join(feeders[i], NULL);
    }
    for (i = 0; i < PAIRS; i++) {
        become(&lines[i].served, 1);
        ck_assert_int_eq(lines[i].bytes, ROUNDS);
        ck_assert_int_eq(lines[i].late, 0);
    }
    mcp_crew_stop(crew);
}
END_TEST

START_TEST(a_wait_ends_when_its_time_is_over)
{
    int i;

    for (i = 0; i < PAIRS; i++) {
        lines[i].patience = i % 2 ? apr_time_from_sec(600) : 0;
        wait_again(&lines[i]);
    }
    for (i = 0; i < PAIRS; i += 2) {
        become(&lines[i].served, 1);
    }
    mcp_crew_stop(crew);
    for (i = 0; i < PAIRS; i++) {
        ck_assert_int_eq(lines[i].late, i % 2 == 0);
    }
}
END_TEST

START_TEST(a_hurry_ends_the_waits_that_may_now_and_later)
{
    int i;

    for (i = 0; i < PAIRS; i++) {
        lines[i].patience = apr_time_from_sec(600);
        lines[i].wait.may_hurry = i % 2;
        if (i == PAIRS / 2) {
            mcp_crew_hurry(crew, 0);
        }
        wait_again(&lines[i]);
    }
    for (i = 1; i < PAIRS; i += 2) {
        become(&lines[i].served, 1);
    }
    mcp_crew_stop(crew);
    for (i = 0; i < PAIRS; i++) {
        ck_assert_int_eq(lines[i].late, i % 2);
    }
}
END_TEST

START_TEST(a_hurry_lets_a_wait_last_for_its_grace)
{
    apr_time_t began = mcp_clock_now();
    int i;

    for (i = 0; i < PAIRS; i++) {
        lines[i].patience = apr_time_from_sec(600);
        lines[i].wait.may_hurry = 1;
        if (i == PAIRS / 2) {
            mcp_crew_hurry(crew, apr_time_from_sec(1));
        }
        wait_again(&lines[i]);
    }
    ck_assert_int_eq(write(lines[0].far_end, "x", 1), 1);
    become(&lines[0].bytes, 1);
    for (i = 1; i < PAIRS; i++) {
        become(&lines[i].served, 1);
        ck_assert_int_eq(lines[i].late, 1);
    }
    ck_assert(mcp_clock_now() >= began + apr_time_from_sec(1));
    mcp_crew_stop(crew);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mcp_httpd_crew");
    TCase *tc = tcase_create("crew");

    tcase_add_checked_fixture(tc, open_crew, close_crew);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_job_runs_once_whoever_gives_it);
    tcase_add_test(tc, a_stop_finishes_the_jobs_that_were_given);
    tcase_add_test(tc, a_job_that_comes_after_the_end_touches_nothing);
    tcase_add_test(tc, a_wait_is_served_whenever_there_is_something_to_read);
    tcase_add_test(tc, a_wait_ends_when_its_time_is_over);
    tcase_add_test(tc, a_hurry_ends_the_waits_that_may_now_and_later);
    tcase_add_test(tc, a_hurry_lets_a_wait_last_for_its_grace);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
