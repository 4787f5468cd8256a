/* SPDX-License-Identifier: Apache-2.0 */
/* The writer: all jobs, in order, none after it has ended, never more than its bounds. */
#include "mcp_cache_writer.h"

#include <pthread.h>

#include "cache_fixture.h"

#define JOBS 1000

typedef struct test_job_t {
    mcp_cache_job_t job;
    int number;
} test_job_t;

static int ran[JOBS], count;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void run(mcp_cache_job_t *job)
{
    pthread_mutex_lock(&gate);
    ran[count++] = ((test_job_t *)job)->number;
    pthread_mutex_unlock(&gate);
    free(job);
}

static int post(mcp_cache_writer_t *writer, int number, apr_size_t size)
{
    test_job_t *job = calloc(1, sizeof(*job));

    job->job.run = run;
    job->job.size = size;
    job->number = number;
    if (mcp_cache_writer_post(writer, &job->job)) {
        return 1;
    }
    free(job);
    return 0;
}

START_TEST(does_all_jobs_in_order_before_it_ends)
{
    mcp_cache_writer_options_t options = {1 << 20, JOBS, NULL, NULL};
    mcp_cache_writer_t *writer;
    apr_pool_t *p;
    int i;

    apr_pool_create(&p, pool);
    writer = mcp_cache_writer_create(&options, 1, p);
    ck_assert_ptr_nonnull(writer);
    for (i = 0; i < JOBS; i++) {
        ck_assert(post(writer, i, 1));
    }
    apr_pool_destroy(p);
    ck_assert_int_eq(count, JOBS);
    for (i = 0; i < JOBS; i++) {
        ck_assert_int_eq(ran[i], i);
    }
}
END_TEST

START_TEST(refuses_more_than_its_bounds)
{
    mcp_cache_writer_options_t options = {1000, 5, NULL, NULL};
    mcp_cache_writer_t *writer = mcp_cache_writer_create(&options, 1, pool);
    int i, taken = 0;

    pthread_mutex_lock(&gate); /* one job may be under way, and waits here */
    for (i = 0; i < 20; i++) {
        taken += post(writer, i, 1);
    }
    ck_assert(taken == 5 || taken == 6);
    pthread_mutex_unlock(&gate);
    ck_assert(!post(writer, 0, 1001));
}
END_TEST

int main(void)
{
    TCase *writer = tcase_create("writer");
    Suite *suite = suite_create("mcp_cache_writer");

    tcase_add_checked_fixture(writer, make_pool, drop_pool);
    tcase_add_test(writer, does_all_jobs_in_order_before_it_ends);
    tcase_add_test(writer, refuses_more_than_its_bounds);
    suite_add_tcase(suite, writer);
    return run_suite(suite);
}
