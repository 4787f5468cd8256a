/* SPDX-License-Identifier: Apache-2.0 */
/* Open streams in shared memory: names, ends, processes that are gone, and readers amid changes. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

#include "mcp_proxy_registry.h"
#include "run_suite.h"

#define SLOTS 64
#define ROUNDS 2000000

static mcp_registry_t *registry;
static apr_uint32_t cursor;
static int writers;

typedef struct seen_t {
    unsigned count;
    mcp_registry_stream_t last;
} seen_t;

static void set_up(void)
{
    void *mem = NULL;

    ck_assert_int_eq(posix_memalign(&mem, 64, mcp_registry_size(SLOTS)), 0);
    memset(mem, 0, mcp_registry_size(SLOTS));
    registry = mcp_registry_init(mem, SLOTS);
    cursor = 0;
}

static void tear_down(void)
{
    free(registry);
}

static mcp_registry_slot_t *open_one(pid_t pid, const char *user)
{
    mcp_registry_stream_t stream = { .member = 7, .opened = 100, .last = 100 };

    strncpy(stream.user, user, sizeof(stream.user) - 1);
    return mcp_registry_open(registry, &cursor, pid, &stream);
}

static void see(void *baton, const mcp_registry_stream_t *stream)
{
    seen_t *seen = baton;

    seen->count++;
    seen->last = *stream;
}

static seen_t look(void)
{
    seen_t seen = { 0 };

    mcp_registry_each(registry, see, &seen);
    return seen;
}

START_TEST(a_stream_is_seen_from_its_opening_to_its_close)
{
    mcp_registry_slot_t *slot = open_one(10, "ann");
    seen_t seen = look();

    ck_assert_int_eq(seen.count, 1);
    ck_assert_str_eq(seen.last.user, "ann");
    ck_assert_int_eq(seen.last.pid, 10);
    ck_assert_int_ne(seen.last.serial, 0);
    mcp_registry_note(slot, 500, 130);
    seen = look();
    ck_assert_int_eq(seen.last.bytes, 500);
    ck_assert_int_eq(seen.last.last, 130);
    mcp_registry_close(slot);
    ck_assert_int_eq(look().count, 0);
    mcp_registry_close(NULL);
}
END_TEST

START_TEST(only_the_named_stream_is_to_end)
{
    mcp_registry_slot_t *a = open_one(10, "a"), *b = open_one(10, "b");
    seen_t seen = look();

    ck_assert_int_eq(mcp_registry_end(registry, seen.last.index, seen.last.serial), APR_SUCCESS);
    ck_assert(!mcp_registry_is_ended(a));
    ck_assert(mcp_registry_is_ended(b));
    ck_assert_int_eq(look().last.is_ended, 1);
    ck_assert_int_eq(mcp_registry_end(registry, SLOTS, 1), APR_NOTFOUND);
    ck_assert_int_eq(mcp_registry_end(registry, 5, 1), APR_NOTFOUND);
    ck_assert_int_eq(mcp_registry_end(registry, 5, 0), APR_NOTFOUND);
}
END_TEST

START_TEST(a_stream_that_moves_keeps_its_name_and_its_end)
{
    mcp_registry_slot_t *slot = open_one(10, "ann");
    mcp_registry_stream_t before = look().last;

    ck_assert_int_eq(mcp_registry_end(registry, before.index, before.serial), APR_SUCCESS);
    mcp_registry_move(slot, 8);
    ck_assert_int_eq(look().last.member, 8);
    ck_assert(mcp_registry_is_ended(slot));
    ck_assert(mcp_registry_has(registry, before.index, before.serial));
}
END_TEST

START_TEST(a_name_is_never_given_again)
{
    mcp_registry_stream_t first;
    mcp_registry_slot_t *slot;

    mcp_registry_close(open_one(10, "a"));
    cursor = 0;
    slot = open_one(10, "b");
    first = look().last;
    ck_assert_int_eq(mcp_registry_end(registry, first.index, first.serial), APR_SUCCESS);
    mcp_registry_close(slot);
    ck_assert_int_eq(mcp_registry_end(registry, first.index, first.serial), APR_NOTFOUND);
    cursor = first.index;
    slot = open_one(11, "c");
    ck_assert_int_eq(look().last.index, first.index);
    ck_assert_int_ne(look().last.serial, first.serial);
    ck_assert_int_eq(mcp_registry_end(registry, first.index, first.serial), APR_NOTFOUND);
    ck_assert(!mcp_registry_is_ended(slot));
}
END_TEST

START_TEST(a_doubt_is_told_once_and_of_the_named_stream_only)
{
    mcp_registry_slot_t *slot = open_one(10, "ann"), *next;
    seen_t old = look();

    ck_assert(mcp_registry_is_in(slot, &old.last));
    ck_assert(mcp_registry_has(registry, old.last.index, old.last.serial));
    ck_assert(!mcp_registry_take_doubt(slot));
    ck_assert_int_eq(mcp_registry_doubt(registry, old.last.index, old.last.serial), APR_SUCCESS);
    ck_assert(mcp_registry_take_doubt(slot));
    ck_assert(!mcp_registry_take_doubt(slot));
    ck_assert(!mcp_registry_is_ended(slot));
    ck_assert_int_eq(mcp_registry_doubt(registry, old.last.index, old.last.serial), APR_SUCCESS);
    mcp_registry_close(slot);
    cursor = old.last.index;
    next = open_one(10, "bob");
    ck_assert_ptr_eq(next, slot);
    ck_assert(!mcp_registry_take_doubt(next));
    ck_assert(!mcp_registry_is_in(next, &old.last));
    ck_assert(!mcp_registry_has(registry, old.last.index, old.last.serial));
    ck_assert_int_eq(mcp_registry_doubt(registry, old.last.index, old.last.serial), APR_NOTFOUND);
    ck_assert_int_eq(mcp_registry_doubt(registry, SLOTS, 1), APR_NOTFOUND);
}
END_TEST

START_TEST(a_full_registry_shows_no_more_and_breaks_nothing)
{
    mcp_registry_slot_t *slots[SLOTS];
    int i;

    for (i = 0; i < SLOTS; i++) {
        slots[i] = open_one(10, "x");
        ck_assert_ptr_nonnull(slots[i]);
    }
    ck_assert_ptr_null(open_one(10, "y"));
    ck_assert_int_eq(look().count, SLOTS);
    mcp_registry_close(slots[17]);
    ck_assert_ptr_eq(open_one(10, "y"), slots[17]);
}
END_TEST

START_TEST(what_a_dead_process_had_comes_free)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    open_one(child, "dead");
    open_one(getpid(), "alive");
    open_one(10, "buried");
    mcp_registry_bury(registry, 10);
    ck_assert_int_eq(look().count, 2);
    mcp_registry_sweep(registry);
    ck_assert_int_eq(look().count, 1);
    ck_assert_str_eq(look().last.user, "alive");
}
END_TEST

/* Each stream's user is one letter over and over, and its member is that letter's number. */
static void *open_and_close(void *baton)
{
    int letter = *(int *)baton, i, j;
    apr_uint32_t mine = 0;

    for (i = 0; i < ROUNDS;) {
        mcp_registry_stream_t stream = { .member = (apr_uint64_t)letter };
        mcp_registry_slot_t *slot;

        memset(stream.user, letter, sizeof(stream.user) - 1);
        slot = mcp_registry_open(registry, &mine, 1000 + letter, &stream);
        i += slot != NULL;
        for (j = 0; slot && j < 20; j++) {
            mcp_registry_note(slot, (apr_uint64_t)j, j);
        }
        mcp_registry_close(slot);
    }
    __atomic_fetch_sub(&writers, 1, __ATOMIC_RELAXED);
    return NULL;
}

typedef struct whole_t {
    unsigned seen, torn;
} whole_t;

/* Cheap: most of the reader's time is to be spent copying. */
static void check_whole(void *baton, const mcp_registry_stream_t *stream)
{
    whole_t *whole = baton;
    char letter = (char)stream->member;

    whole->seen++;
    whole->torn += stream->user[0] != letter || stream->user[40] != letter
        || stream->user[sizeof(stream->user) - 2] != letter || stream->pid != 1000 + letter;
}

START_TEST(a_reader_never_sees_two_streams_in_one)
{
    pthread_t threads[3];
    int letters[3] = { 'a', 'b', 'c' }, i;
    whole_t whole = { 0, 0 };

    /* Two slots, so that there is no end of changes in them. */
    registry = mcp_registry_init(registry, 2);
    writers = 3;
    for (i = 0; i < 3; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, open_and_close, &letters[i]), 0);
    }
    while (__atomic_load_n(&writers, __ATOMIC_RELAXED)) {
        mcp_registry_each(registry, check_whole, &whole);
    }
    for (i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_int_gt(whole.seen, 0);
    ck_assert_int_eq(whole.torn, 0);
    ck_assert_int_eq(look().count, 0);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("registry");
    Suite *suite = suite_create("mcp_proxy_registry");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_stream_is_seen_from_its_opening_to_its_close);
    tcase_add_test(tcase, only_the_named_stream_is_to_end);
    tcase_add_test(tcase, a_stream_that_moves_keeps_its_name_and_its_end);
    tcase_add_test(tcase, a_name_is_never_given_again);
    tcase_add_test(tcase, a_doubt_is_told_once_and_of_the_named_stream_only);
    tcase_add_test(tcase, a_full_registry_shows_no_more_and_breaks_nothing);
    tcase_add_test(tcase, what_a_dead_process_had_comes_free);
    tcase_add_test(tcase, a_reader_never_sees_two_streams_in_one);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
