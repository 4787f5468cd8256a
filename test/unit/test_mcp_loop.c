/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop against pipes and threads. */
#include "mcp_loop.h"

#include <check.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "run_suite.h"

static mcp_loop_t *loop;
static int pipes[8][2];
static int calls;
static unsigned last_events;

static void open_loop(void)
{
    int i;

    loop = mcp_loop_create();
    ck_assert_ptr_nonnull(loop);
    for (i = 0; i < 8; i++) {
        ck_assert_int_eq(pipe(pipes[i]), 0);
    }
    calls = 0;
    last_events = 0;
}

static void close_loop(void)
{
    int i;

    mcp_loop_destroy(loop);
    for (i = 0; i < 8; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}

static void make_readable(int i)
{
    ck_assert_int_eq(write(pipes[i][1], "x", 1), 1);
}

static void stop_loop(void *baton)
{
    mcp_loop_stop(loop);
}

static void count_call(void *baton)
{
    calls++;
}

/* Run everything that is ready now, and what that posts, but wait for nothing. */
static void run_once(void)
{
    mcp_post_t end = { .fn = stop_loop };

    mcp_loop_post(loop, &end);
    mcp_loop_run(loop);
}

static void on_event(mcp_watch_t *watch, unsigned events)
{
    calls++;
    last_events = events;
}

START_TEST(test_watch_is_called_for_what_it_asked_for)
{
    mcp_watch_t reader = { .fn = on_event };

    ck_assert_int_eq(mcp_watch_start(loop, &reader, pipes[0][0], EPOLLIN), APR_SUCCESS);
    ck_assert_int_eq(reader.active, 1);
    ck_assert_int_eq(reader.fd, pipes[0][0]);
    run_once();
    ck_assert_int_eq(calls, 0);
    make_readable(0);
    run_once();
    ck_assert_int_eq(calls, 1);
    ck_assert_uint_eq(last_events, EPOLLIN);
    run_once();
    ck_assert_msg(calls == 2, "what was not read must be reported again");
    mcp_watch_stop(loop, &reader);
    ck_assert_int_eq(reader.active, 0);
    run_once();
    ck_assert_int_eq(calls, 2);
}
END_TEST

START_TEST(test_watch_on_a_closed_descriptor_is_refused)
{
    mcp_watch_t watch = { .fn = on_event };
    int fd = dup(0);

    close(fd);
    ck_assert_int_eq(mcp_watch_start(loop, &watch, fd, EPOLLIN), EBADF);
    ck_assert_int_eq(watch.active, 0);
    mcp_watch_stop(loop, &watch);
    ck_assert_int_eq(mcp_watch_change(loop, &watch, EPOLLIN), APR_EINVAL);
}
END_TEST

START_TEST(test_watch_changes_between_nothing_and_reading)
{
    mcp_watch_t watch = { .fn = on_event };

    make_readable(0);
    ck_assert_int_eq(mcp_watch_start(loop, &watch, pipes[0][0], 0), APR_SUCCESS);
    run_once();
    ck_assert_int_eq(calls, 0);
    ck_assert_int_eq(mcp_watch_change(loop, &watch, EPOLLIN), APR_SUCCESS);
    ck_assert_int_eq(mcp_watch_change(loop, &watch, EPOLLIN), APR_SUCCESS);
    run_once();
    ck_assert_int_eq(calls, 1);
    ck_assert_int_eq(mcp_watch_change(loop, &watch, 0), APR_SUCCESS);
    run_once();
    ck_assert_int_eq(calls, 1);
    mcp_watch_stop(loop, &watch);
}
END_TEST

START_TEST(test_hangup_is_told_without_being_asked_for)
{
    mcp_watch_t watch = { .fn = on_event };

    ck_assert_int_eq(mcp_watch_start(loop, &watch, pipes[0][0], 0), APR_SUCCESS);
    close(pipes[0][1]);
    run_once();
    ck_assert_uint_eq(last_events, EPOLLHUP);
    mcp_watch_stop(loop, &watch);
    pipes[0][1] = dup(pipes[0][0]);
}
END_TEST

/* The first one of the batch to be called ends all, and their memory. */
static mcp_watch_t *group[8];

static void stop_group(mcp_watch_t *watch, unsigned events)
{
    int i;

    calls++;
    for (i = 0; i < 8; i++) {
        mcp_watch_stop(loop, group[i]);
        free(group[i]);
    }
}

static void start_group(mcp_watch_fn *fn)
{
    int i;

    for (i = 0; i < 8; i++) {
        group[i] = calloc(1, sizeof(mcp_watch_t));
        group[i]->fn = fn;
        make_readable(i);
        ck_assert_int_eq(mcp_watch_start(loop, group[i], pipes[i][0], EPOLLIN), APR_SUCCESS);
    }
}

START_TEST(test_stopped_watch_is_not_called_from_the_same_batch)
{
    start_group(stop_group);
    run_once();
    ck_assert_int_eq(calls, 1);
}
END_TEST

static void quieten_group(mcp_watch_t *watch, unsigned events)
{
    int i;

    calls++;
    for (i = 0; i < 8; i++) {
        ck_assert_int_eq(mcp_watch_change(loop, group[i], 0), APR_SUCCESS);
    }
}

START_TEST(test_changed_watch_is_not_told_what_it_no_longer_wants)
{
    int i;

    start_group(quieten_group);
    run_once();
    ck_assert_int_eq(calls, 1);
    for (i = 0; i < 8; i++) {
        mcp_watch_stop(loop, group[i]);
        free(group[i]);
    }
}
END_TEST

static void restart_all(mcp_watch_t *watch, unsigned events)
{
    int i;

    calls++;
    for (i = 0; i < 8; i++) {
        mcp_watch_stop(loop, group[i]);
    }
    for (i = 0; i < 8; i++) {
        ck_assert_int_eq(mcp_watch_start(loop, group[i], pipes[(i + 1) % 8][0], EPOLLOUT),
                         APR_SUCCESS);
    }
}

START_TEST(test_watch_that_starts_anew_gets_no_event_of_its_former_descriptor)
{
    int i;

    start_group(restart_all);
    run_once();
    ck_assert_int_eq(calls, 1);
    for (i = 0; i < 8; i++) {
        mcp_watch_stop(loop, group[i]);
        free(group[i]);
    }
}
END_TEST

START_TEST(test_starting_an_active_watch_moves_it)
{
    mcp_watch_t watch = { .fn = on_event };

    ck_assert_int_eq(mcp_watch_start(loop, &watch, pipes[0][0], EPOLLIN), APR_SUCCESS);
    ck_assert_int_eq(mcp_watch_start(loop, &watch, pipes[1][0], EPOLLIN), APR_SUCCESS);
    make_readable(0);
    run_once();
    ck_assert_int_eq(calls, 0);
    make_readable(1);
    run_once();
    ck_assert_int_eq(calls, 1);
    mcp_watch_stop(loop, &watch);
}
END_TEST

typedef struct sequence_t {
    int count;
    int values[64];
} sequence_t;

static sequence_t sequence;

static void append_baton(void *baton)
{
    sequence.values[sequence.count++] = (int)(intptr_t)baton;
}

START_TEST(test_posts_run_in_the_order_posted)
{
    mcp_post_t posts[32];
    int i;

    sequence.count = 0;
    for (i = 0; i < 32; i++) {
        posts[i].fn = append_baton;
        posts[i].baton = (void *)(intptr_t)i;
        mcp_loop_post(loop, &posts[i]);
    }
    run_once();
    ck_assert_int_eq(sequence.count, 32);
    for (i = 0; i < 32; i++) {
        ck_assert_int_eq(sequence.values[i], i);
    }
}
END_TEST

static void free_self(void *baton)
{
    mcp_post_t *post = baton;

    memset(post, 0xff, sizeof(*post));
    free(post);
    calls++;
}

START_TEST(test_post_may_free_its_own_memory)
{
    int i;

    for (i = 0; i < 10; i++) {
        mcp_post_t *post = malloc(sizeof(*post));

        post->fn = free_self;
        post->baton = post;
        mcp_loop_post(loop, post);
    }
    run_once();
    ck_assert_int_eq(calls, 10);
}
END_TEST

static mcp_post_t chained;

static void post_again(void *baton)
{
    if (++calls == 100) {
        mcp_loop_stop(loop);
    } else {
        mcp_loop_post(loop, &chained);
    }
}

START_TEST(test_post_may_be_posted_from_its_own_call)
{
    chained.fn = post_again;
    mcp_loop_post(loop, &chained);
    mcp_loop_run(loop);
    ck_assert_int_eq(calls, 100);
}
END_TEST

#define PER_THREAD 20000
#define THREADS 4

typedef struct counted_post_t {
    mcp_post_t post;
    int thread, number;
} counted_post_t;

static int next_number[THREADS], out_of_order;

static void take_counted(void *baton)
{
    counted_post_t *counted = baton;

    if (counted->number != next_number[counted->thread]++) {
        out_of_order++;
    }
    free(counted);
    if (++calls == THREADS * PER_THREAD) {
        mcp_loop_stop(loop);
    }
}

static void *post_many(void *baton)
{
    int i;

    for (i = 0; i < PER_THREAD; i++) {
        counted_post_t *counted = malloc(sizeof(*counted));

        counted->thread = (int)(intptr_t)baton;
        counted->number = i;
        counted->post.fn = take_counted;
        counted->post.baton = counted;
        mcp_loop_post(loop, &counted->post);
    }
    return NULL;
}

START_TEST(test_no_post_of_many_threads_is_lost_or_overtaken)
{
    pthread_t threads[THREADS];
    int i;

    memset(next_number, 0, sizeof(next_number));
    out_of_order = 0;
    for (i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, post_many, (void *)(intptr_t)i);
    }
    mcp_loop_run(loop);
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_int_eq(calls, THREADS * PER_THREAD);
    ck_assert_int_eq(out_of_order, 0);
}
END_TEST

static void *stop_from_thread(void *baton)
{
    mcp_loop_stop(baton);
    return NULL;
}

START_TEST(test_stop_from_another_thread_ends_an_idle_loop_that_may_go_at_once)
{
    int i;

    for (i = 0; i < 200; i++) {
        mcp_loop_t *other = mcp_loop_create();
        pthread_t thread;

        ck_assert_ptr_nonnull(other);
        pthread_create(&thread, NULL, stop_from_thread, other);
        mcp_loop_run(other);
        mcp_loop_destroy(other);
        pthread_join(thread, NULL);
    }
}
END_TEST

START_TEST(test_stop_before_run_is_kept_and_counts_once)
{
    mcp_post_t post = { .fn = count_call };

    mcp_loop_stop(loop);
    mcp_loop_run(loop);
    mcp_loop_post(loop, &post);
    run_once();
    ck_assert_int_eq(calls, 1);
}
END_TEST

START_TEST(test_posts_of_a_round_all_run_although_the_first_stops_the_loop)
{
    mcp_post_t first = { .fn = stop_loop }, second = { .fn = count_call };

    mcp_loop_post(loop, &first);
    mcp_loop_post(loop, &second);
    mcp_loop_run(loop);
    ck_assert_int_eq(calls, 1);
}
END_TEST

START_TEST(test_loop_without_descriptors_is_none)
{
    int next = dup(0), i;
    struct rlimit limit;

    close(next);
    getrlimit(RLIMIT_NOFILE, &limit);
    for (i = 0; i < 3; i++) {
        mcp_loop_t *other;

        limit.rlim_cur = (rlim_t)(next + i);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        other = mcp_loop_create();
        ck_assert_int_eq(other != NULL, i == 2);
        if (other) {
            mcp_loop_destroy(other);
        }
    }
    ck_assert_msg(dup(0) == next && dup(0) == next + 1, "a loop must close what it opened");
    close(next);
    close(next + 1);
}
END_TEST

START_TEST(test_buffer_is_whole_and_writable)
{
    apr_size_t size;
    char *buffer = mcp_loop_buffer(loop, &size);

    ck_assert_uint_eq(size, 64 * 1024);
    memset(buffer, 1, size);
    run_once();
}
END_TEST

static void add_watch_tests(TCase *tc)
{
    tcase_add_test(tc, test_watch_is_called_for_what_it_asked_for);
    tcase_add_test(tc, test_watch_on_a_closed_descriptor_is_refused);
    tcase_add_test(tc, test_watch_changes_between_nothing_and_reading);
    tcase_add_test(tc, test_hangup_is_told_without_being_asked_for);
    tcase_add_test(tc, test_stopped_watch_is_not_called_from_the_same_batch);
    tcase_add_test(tc, test_changed_watch_is_not_told_what_it_no_longer_wants);
    tcase_add_test(tc, test_watch_that_starts_anew_gets_no_event_of_its_former_descriptor);
    tcase_add_test(tc, test_starting_an_active_watch_moves_it);
    tcase_add_test(tc, test_loop_without_descriptors_is_none);
    tcase_add_test(tc, test_buffer_is_whole_and_writable);
}

static void add_post_tests(TCase *tc)
{
    tcase_add_test(tc, test_posts_run_in_the_order_posted);
    tcase_add_test(tc, test_post_may_free_its_own_memory);
    tcase_add_test(tc, test_post_may_be_posted_from_its_own_call);
    tcase_add_test(tc, test_no_post_of_many_threads_is_lost_or_overtaken);
    tcase_add_test(tc, test_stop_from_another_thread_ends_an_idle_loop_that_may_go_at_once);
    tcase_add_test(tc, test_stop_before_run_is_kept_and_counts_once);
    tcase_add_test(tc, test_posts_of_a_round_all_run_although_the_first_stops_the_loop);
}

static void add_case(Suite *suite, const char *name, void (*add)(TCase *tc))
{
    TCase *tc = tcase_create(name);

    tcase_add_checked_fixture(tc, open_loop, close_loop);
    tcase_set_timeout(tc, 60);
    add(tc);
    suite_add_tcase(suite, tc);
}

int main(void)
{
    Suite *suite = suite_create("mcp_loop");

    add_case(suite, "watches", add_watch_tests);
    add_case(suite, "posts", add_post_tests);
    return run_suite(suite);
}
