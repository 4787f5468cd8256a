/* SPDX-License-Identifier: Apache-2.0 */
/* Records of sessions in shared memory: one rescuer at a time, and what it finds and leaves. */
#include "mcp_proxy_rescue_store.h"

#include <sys/wait.h>
#include <unistd.h>

#include "cache_fixture.h"

#define ENTRIES 500
#define TTL apr_time_from_sec(100)
#define LIFE apr_time_from_sec(30)
#define PARAMS "{\"clientInfo\":{\"name\":\"x\"}}"

static mcp_record_keys_t keys;
static mcp_rescue_store_t store = { .keys = &keys, .ttl = TTL };
static mcp_session_key_t key;

static void make_store(void)
{
    apr_size_t size = mcp_rescue_store_size(ENTRIES);

    make_memory(size);
    memset(&keys, 0, sizeof(keys));
    mcp_record_add_key(&keys, "secret", 6);
    store.near = mcp_blobs_init(memory, size, MCP_RECORD_MAX_PARAMS);
    memset(&key, 'k', sizeof(key));
}

static apr_status_t remember(void)
{
    return mcp_rescue_remember(&store, &key, span(PARAMS), pool);
}

static apr_status_t claim(mcp_rescue_claim_t *made)
{
    return mcp_rescue_claim(&store, &key, LIFE, pool, made);
}

static apr_status_t release(const mcp_rescue_claim_t *made, apr_uint32_t generation)
{
    mcp_record_route_t route = { generation, "b", "new-id", START, 1 };

    return mcp_rescue_release(&store, &key, made, generation ? &route : NULL, pool);
}

START_TEST(a_rescue_starts_from_the_clients_own_parameters)
{
    mcp_rescue_claim_t mine;

    ck_assert_int_eq(claim(&mine), APR_NOTFOUND);
    ck_assert_int_eq(remember(), APR_SUCCESS);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_str_eq(mine.params.p, PARAMS);
    ck_assert_uint_eq(mine.route.generation, 0);
}
END_TEST

START_TEST(only_one_rescues_and_the_others_see_what_came_of_it)
{
    mcp_rescue_claim_t mine, yours;
    mcp_record_route_t route;

    remember();
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_int_eq(claim(&yours), APR_EBUSY);
    ck_assert_uint_eq(yours.route.generation, 0);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_NOTFOUND);
    ck_assert_int_eq(release(&mine, 1), APR_SUCCESS);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_SUCCESS);
    ck_assert_str_eq(route.member, "b");
    ck_assert_str_eq(route.session, "new-id");
    ck_assert_int_eq(claim(&yours), APR_SUCCESS);
    ck_assert_uint_eq(yours.route.generation, 1);
}
END_TEST

START_TEST(a_rescue_that_failed_leaves_nothing_behind)
{
    mcp_rescue_claim_t mine;
    mcp_record_route_t route;

    remember();
    claim(&mine);
    release(&mine, 0);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_NOTFOUND);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
}
END_TEST

START_TEST(who_dies_over_it_does_not_keep_others_from_it)
{
    mcp_rescue_claim_t dead, mine;

    remember();
    ck_assert_int_eq(claim(&dead), APR_SUCCESS);
    mcp_clock_set(START + LIFE - 1);
    ck_assert_int_eq(claim(&mine), APR_EBUSY);
    mcp_clock_set(START + LIFE);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    /* Who comes back from the dead does not end the other one's claim. */
    release(&dead, 0);
    ck_assert_int_eq(claim(&dead), APR_EBUSY);
}
END_TEST

START_TEST(a_claim_that_is_renewed_does_not_run_out)
{
    mcp_rescue_claim_t mine, yours;
    int i;

    remember();
    mcp_rescue_prolong(&store, &key, 20 * LIFE);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    for (i = 1; i < 5; i++) {
        mcp_clock_set(START + i * (LIFE - 1));
        ck_assert_int_eq(claim(&yours), APR_EBUSY);
        ck_assert_int_eq(mcp_rescue_renew(&store, &key, &mine, LIFE, pool), APR_SUCCESS);
    }
    /* Nobody has missed it. */
    mcp_clock_set(START + 10 * LIFE);
    ck_assert_int_eq(mcp_rescue_renew(&store, &key, &mine, LIFE, pool), APR_SUCCESS);
    mcp_clock_set(START + 11 * LIFE);
    ck_assert_int_eq(claim(&yours), APR_SUCCESS);
    ck_assert_int_eq(mcp_rescue_renew(&store, &key, &mine, LIFE, pool), APR_EEXIST);
}
END_TEST

START_TEST(who_comes_too_late_changes_nothing)
{
    mcp_rescue_claim_t late, mine;
    mcp_record_route_t route;

    remember();
    ck_assert_int_eq(claim(&late), APR_SUCCESS);
    mcp_clock_set(START + LIFE);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_int_eq(release(&mine, 5), APR_SUCCESS);
    ck_assert_int_eq(release(&late, 1), APR_EEXIST);
    ck_assert_int_eq(release(&late, 0), APR_EEXIST);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_SUCCESS);
    ck_assert_uint_eq(route.generation, 5);
}
END_TEST

START_TEST(who_is_late_and_still_the_first_counts)
{
    mcp_rescue_claim_t late, mine;
    mcp_record_route_t route;

    remember();
    claim(&mine);
    release(&mine, 1);
    ck_assert_int_eq(claim(&late), APR_SUCCESS);
    mcp_clock_set(START + LIFE);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_int_eq(release(&late, 2), APR_SUCCESS);
    ck_assert_int_eq(release(&mine, 5), APR_EEXIST);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_SUCCESS);
    ck_assert_uint_eq(route.generation, 2);
}
END_TEST

START_TEST(one_of_many_children_gets_the_claim)
{
    int i, said[2], over[2], winners = 0;
    char outcome;

    remember();
    ck_assert_int_eq(pipe(said) | pipe(over), 0);
    for (i = 0; i < 8; i++) {
        if (!fork()) {
            mcp_rescue_claim_t mine;

            outcome = claim(&mine) == APR_SUCCESS;
            close(over[1]);
            /* Not before all have tried: a dead one's claim is nobody's. */
            _exit(write(said[1], &outcome, 1) == 1 && read(over[0], &outcome, 1) == 0 ? 0 : 1);
        }
    }
    for (i = 0; i < 8; i++) {
        ck_assert_int_eq(read(said[0], &outcome, 1), 1);
        winners += outcome;
    }
    ck_assert_int_eq(winners, 1);
    close(over[1]);
    while (wait(NULL) > 0) {
    }
}
END_TEST

START_TEST(the_claim_of_a_dead_child_is_taken_over)
{
    mcp_rescue_claim_t mine, yours;
    int status;

    remember();
    if (!fork()) {
        _exit(claim(&mine) == APR_SUCCESS ? 0 : 1);
    }
    wait(&status);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_int_eq(claim(&yours), APR_EBUSY);
}
END_TEST

START_TEST(records_live_as_long_as_they_are_used)
{
    mcp_rescue_claim_t mine;
    mcp_record_route_t route;

    remember();
    claim(&mine);
    release(&mine, 1);
    mcp_clock_set(START + TTL - 1);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_SUCCESS);
    mcp_clock_set(START + 2 * TTL - 2);
    mcp_rescue_prolong(&store, &key, 2 * TTL);
    mcp_clock_set(START + 4 * TTL - 3);
    ck_assert_int_eq(claim(&mine), APR_SUCCESS);
    ck_assert_uint_eq(mine.route.generation, 1);
    mcp_clock_set(START + 6 * TTL);
    ck_assert_int_eq(claim(&mine), APR_NOTFOUND);
}
END_TEST

START_TEST(a_session_that_is_over_leaves_nothing_behind)
{
    mcp_rescue_claim_t mine;
    mcp_record_route_t route;

    remember();
    claim(&mine);
    release(&mine, 1);
    mcp_rescue_forget(&store, &key, pool);
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_NOTFOUND);
    ck_assert_int_eq(claim(&mine), APR_NOTFOUND);
}
END_TEST

START_TEST(an_id_that_is_given_out_anew_starts_anew)
{
    mcp_rescue_claim_t mine;
    mcp_record_route_t route;

    remember();
    claim(&mine);
    release(&mine, 1);
    remember();
    ck_assert_int_eq(mcp_rescue_find_route(&store, &key, pool, &route), APR_NOTFOUND);
}
END_TEST

START_TEST(parameters_may_be_long_but_not_without_end)
{
    mcp_span_t params = { apr_pcalloc(pool, MCP_RECORD_MAX_PARAMS + 1), MCP_RECORD_MAX_PARAMS };

    ck_assert_int_eq(mcp_rescue_remember(&store, &key, params, pool), APR_SUCCESS);
    params.len++;
    ck_assert_int_eq(mcp_rescue_remember(&store, &key, params, pool), APR_ENOSPC);
}
END_TEST

START_TEST(a_tool_reads_as_long_as_its_server_says_so)
{
    ck_assert(!mcp_rescue_tool_reads(&store, "one", "look"));
    mcp_rescue_note_tool(&store, "one", "look", 1);
    mcp_rescue_note_tool(&store, "one", "change", 0);
    ck_assert(mcp_rescue_tool_reads(&store, "one", "look"));
    ck_assert(!mcp_rescue_tool_reads(&store, "one", "change"));
    ck_assert(!mcp_rescue_tool_reads(&store, "two", "look"));
    mcp_rescue_note_tool(&store, "one", "look", 0);
    ck_assert(!mcp_rescue_tool_reads(&store, "one", "look"));
}
END_TEST

START_TEST(there_is_room_for_all_sessions)
{
    char params[900];
    mcp_rescue_claim_t mine;
    int i;

    memset(params, 'x', sizeof(params));
    for (i = 0; i < ENTRIES; i++) {
        mcp_span_t value = { params, sizeof(params) };

        memcpy(key.id, &i, sizeof(i));
        ck_assert_int_eq(mcp_rescue_remember(&store, &key, value, pool), APR_SUCCESS);
    }
    for (i = 0; i < ENTRIES; i++) {
        memcpy(key.id, &i, sizeof(i));
        ck_assert_msg(claim(&mine) == APR_SUCCESS, "%d", i);
        release(&mine, 0);
    }
}
END_TEST

int main(void)
{
    TCase *tests = tcase_create("store");
    Suite *suite = suite_create("mcp_proxy_rescue_store");

    tcase_add_checked_fixture(tests, make_store, drop_memory);
    tcase_add_test(tests, a_rescue_starts_from_the_clients_own_parameters);
    tcase_add_test(tests, only_one_rescues_and_the_others_see_what_came_of_it);
    tcase_add_test(tests, a_rescue_that_failed_leaves_nothing_behind);
    tcase_add_test(tests, who_dies_over_it_does_not_keep_others_from_it);
    tcase_add_test(tests, a_claim_that_is_renewed_does_not_run_out);
    tcase_add_test(tests, who_comes_too_late_changes_nothing);
    tcase_add_test(tests, who_is_late_and_still_the_first_counts);
    tcase_add_test(tests, one_of_many_children_gets_the_claim);
    tcase_add_test(tests, the_claim_of_a_dead_child_is_taken_over);
    tcase_add_test(tests, records_live_as_long_as_they_are_used);
    tcase_add_test(tests, a_session_that_is_over_leaves_nothing_behind);
    tcase_add_test(tests, an_id_that_is_given_out_anew_starts_anew);
    tcase_add_test(tests, parameters_may_be_long_but_not_without_end);
    tcase_add_test(tests, a_tool_reads_as_long_as_its_server_says_so);
    tcase_add_test(tests, there_is_room_for_all_sessions);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
