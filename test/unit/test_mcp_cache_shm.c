/* SPDX-License-Identifier: Apache-2.0 */
/* The store in shared memory: against a plain model, at its limits, and with children that die. */
#include "mcp_cache_shm.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache_fixture.h"

#define SIZE (2 * 1024 * 1024)
#define MINUTE apr_time_from_sec(60)
#define KEYS 200

static mcp_cache_shm_t *shm;

static void make_store(void)
{
    make_memory(SIZE);
    shm = mcp_cache_shm_init(memory, SIZE, 1000);
}

static const unsigned char *digest_of(unsigned number)
{
    static unsigned char digest[MCP_CACHE_DIGEST];
    apr_uint64_t hash;
    unsigned i;

    for (i = 0; i < MCP_CACHE_DIGEST; i += 8) {
        hash = mcp_cache_hash(&number, sizeof(number), i);
        memcpy(digest + i, &hash, 8);
    }
    return digest;
}

static apr_status_t put(unsigned number, const char *bytes, apr_size_t len)
{
    mcp_span_t value = {bytes, len};

    return mcp_cache_shm_put(shm, digest_of(number), value, MINUTE);
}

static int holds(unsigned number, const char *bytes, apr_size_t len)
{
    mcp_span_t value;
    apr_interval_time_t left;

    return mcp_cache_shm_get(shm, digest_of(number), pool, &value, &left) == APR_SUCCESS
        && value.len == len && !memcmp(value.p, bytes, len) && left > 0;
}

START_TEST(keeps_bytes_of_any_length_as_they_are)
{
    static const apr_size_t lengths[] = {0, 1, 1019, 1020, 1021, 2040, 2041, 100000};
    char *bytes = apr_palloc(pool, 100000);
    unsigned i;

    for (i = 0; i < 100000; i++) {
        bytes[i] = (char)(i * 7 % 251);
    }
    for (i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        ck_assert_int_eq(put(i, bytes, lengths[i]), APR_SUCCESS);
    }
    for (i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        ck_assert_msg(holds(i, bytes, lengths[i]), "%u", i);
    }
}
END_TEST

START_TEST(forgets_when_the_time_is_up)
{
    mcp_span_t value;
    apr_interval_time_t left;

    put(1, "x", 1);
    mcp_clock_set(START + MINUTE - 1);
    ck_assert_int_eq(mcp_cache_shm_get(shm, digest_of(1), pool, &value, &left), APR_SUCCESS);
    ck_assert_int_eq(left, 1);
    mcp_clock_set(START + MINUTE);
    ck_assert(!holds(1, "x", 1));
}
END_TEST

START_TEST(drops_the_least_recently_used_when_it_is_full)
{
    char *bytes = apr_pcalloc(pool, 10000);
    apr_uint64_t entries, used;
    unsigned i;

    for (i = 0; i < 1000; i++) {
        ck_assert_int_eq(put(i, bytes, 10000), APR_SUCCESS);
        ck_assert(holds(0, bytes, 10000)); /* used all the time */
    }
    ck_assert(holds(999, bytes, 10000));
    ck_assert(!holds(1, bytes, 10000));
    mcp_cache_shm_usage(shm, &entries, &used);
    ck_assert(entries > 100 && entries < 250 && used == entries * 10000);
}
END_TEST

START_TEST(refuses_what_would_empty_a_shard)
{
    char *bytes = apr_pcalloc(pool, SIZE);

    put(1, "x", 1);
    ck_assert_int_eq(put(2, bytes, SIZE / 2), APR_ENOSPC);
    ck_assert(holds(1, "x", 1));
    ck_assert_int_eq(put(2, bytes, SIZE / 6), APR_SUCCESS);
}
END_TEST

/* Values of changing lengths, looked up, overwritten and expiring, against an array. */
START_TEST(agrees_with_a_plain_model)
{
    struct {
        apr_size_t len;
        apr_time_t until;
        char fill;
    } model[KEYS] = {{0, 0, 0}};
    apr_time_t now = START;
    char bytes[3000];
    int round;

    srandom(7);
    for (round = 0; round < 100000; round++) {
        unsigned key = (unsigned)random() % KEYS;

        now += random() % 100000;
        mcp_clock_set(now);
        if (random() % 3 == 0) {
            model[key].len = (apr_size_t)random() % sizeof(bytes);
            model[key].fill = (char)random();
            model[key].until = now + MINUTE;
            memset(bytes, model[key].fill, sizeof(bytes));
            put(key, bytes, model[key].len);
        }
        memset(bytes, model[key].fill, sizeof(bytes));
        ck_assert_int_eq(holds(key, bytes, model[key].len), model[key].until > now);
        apr_pool_clear(pool);
    }
}
END_TEST

START_TEST(a_generation_moves_alone)
{
    apr_uint64_t a = mcp_cache_shm_generation(shm, 1), b = mcp_cache_shm_generation(shm, 2);

    ck_assert(a && b);
    mcp_cache_shm_invalidate(shm, 1);
    ck_assert(mcp_cache_shm_generation(shm, 1) != a);
    ck_assert(mcp_cache_shm_generation(shm, 2) == b);
}
END_TEST

START_TEST(an_ended_session_stays_ended)
{
    mcp_cache_store_t *store = mcp_cache_shm_store(shm, pool);
    mcp_cache_query_t query;

    memset(&query, 0, sizeof(query));
    query.session = apr_pmemdup(pool, digest_of(1), MCP_CACHE_DIGEST);
    store->class->lookup(store, &query, pool);
    ck_assert_int_eq(query.session_state, MCP_CACHE_SESSION_UNKNOWN);
    store->class->session(store, query.session, MCP_CACHE_SESSION_LIVE);
    store->class->lookup(store, &query, pool);
    ck_assert_int_eq(query.session_state, MCP_CACHE_SESSION_LIVE);
    store->class->session(store, query.session, MCP_CACHE_SESSION_ENDED);
    store->class->session(store, query.session, MCP_CACHE_SESSION_LIVE);
    store->class->lookup(store, &query, pool);
    ck_assert_int_eq(query.session_state, MCP_CACHE_SESSION_ENDED);
}
END_TEST

/* One value per key and fill byte: a torn one would mix them. */
static void hammer(unsigned seed, int rounds)
{
    char bytes[5000];

    srandom(seed);
    while (rounds--) {
        unsigned key = (unsigned)random() % 20;
        mcp_span_t value;
        apr_interval_time_t left;

        memset(bytes, (char)key, sizeof(bytes));
        if (random() % 2) {
            put(key, bytes, 1 + (apr_size_t)random() % (sizeof(bytes) - 1));
        } else if (mcp_cache_shm_get(shm, digest_of(key), pool, &value, &left) == APR_SUCCESS
                   && memcmp(value.p, bytes, value.len)) {
            _exit(3);
        }
        apr_pool_clear(pool);
    }
}

START_TEST(survives_children_that_are_killed_at_work)
{
    pid_t children[3];
    int round, i, status;

    for (round = 0; round < 30; round++) {
        for (i = 0; i < 3; i++) {
            children[i] = fork();
            if (!children[i]) {
                hammer((unsigned)(round * 3 + i), 1000000);
                _exit(0);
            }
        }
        usleep(5000);
        for (i = 0; i < 3; i++) {
            kill(children[i], SIGKILL);
            waitpid(children[i], &status, 0);
            ck_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        }
        hammer(1000, 2000);
    }
}
END_TEST

START_TEST(is_found_again_with_what_it_held)
{
    put(1, "kept", 4);
    ck_assert_ptr_eq(mcp_cache_shm_attach(memory, SIZE), shm);
    ck_assert_ptr_null(mcp_cache_shm_attach(memory, SIZE / 2));
    ck_assert(holds(1, "kept", 4));
}
END_TEST

int main(void)
{
    TCase *store = tcase_create("store");
    Suite *suite = suite_create("mcp_cache_shm");

    tcase_add_checked_fixture(store, make_store, drop_memory);
    tcase_set_timeout(store, 120);
    tcase_add_test(store, keeps_bytes_of_any_length_as_they_are);
    tcase_add_test(store, forgets_when_the_time_is_up);
    tcase_add_test(store, drops_the_least_recently_used_when_it_is_full);
    tcase_add_test(store, refuses_what_would_empty_a_shard);
    tcase_add_test(store, agrees_with_a_plain_model);
    tcase_add_test(store, a_generation_moves_alone);
    tcase_add_test(store, an_ended_session_stays_ended);
    tcase_add_test(store, survives_children_that_are_killed_at_work);
    tcase_add_test(store, is_found_again_with_what_it_held);
    suite_add_tcase(suite, store);
    return run_suite(suite);
}
