/* SPDX-License-Identifier: Apache-2.0 */
/* The session table, each rule by itself. */
#include "session_fixture.h"

START_TEST(test_session_is_found_where_it_was_learnt)
{
    apr_uint64_t member = 0;

    make_table(8);
    ck_assert_int_eq(find(1, 1, START, &member), APR_NOTFOUND);
    ck_assert_int_eq(learn(1, 1, 0xfedcba9876543210u, START), APR_SUCCESS);
    ck_assert_int_eq(learn(2, 1, 7, START), APR_SUCCESS);
    ck_assert_int_eq(find(1, 1, START, &member), APR_SUCCESS);
    ck_assert(member == 0xfedcba9876543210u);
    ck_assert_int_eq(find(2, 1, START, &member), APR_SUCCESS);
    ck_assert_uint_eq(member, 7);
    check_table();
}
END_TEST

START_TEST(test_session_moves_to_another_member_without_a_second_entry)
{
    apr_uint64_t member;

    make_table(8);
    learn(1, 1, 5, START);
    ck_assert_int_eq(learn(1, 1, 6, START), APR_SUCCESS);
    ck_assert_int_eq(find(1, 1, START, &member), APR_SUCCESS);
    ck_assert_uint_eq(member, 6);
    ck_assert_uint_eq(count(), 1);
    check_table();
}
END_TEST

START_TEST(test_session_of_another_identity_is_denied_and_unharmed)
{
    apr_uint64_t member = 99;

    make_table(8);
    learn(1, 1, 5, START);
    ck_assert_int_eq(find(1, 2, START, &member), APR_EACCES);
    ck_assert_uint_eq(member, 99);
    forget(1, 2);
    ck_assert(is_known(1, 1, START));
    find(1, 2, START + TTL - 1, &member);
    ck_assert_msg(!is_known(1, 1, START + TTL), "a stranger's request must not be a use");
    check_table();
}
END_TEST

START_TEST(test_stranger_cannot_hold_a_session)
{
    make_table(8);
    learn(1, 1, 5, START);
    hold(1, 2, START + 10 * TTL);
    ck_assert(!is_known(1, 1, START + TTL));
}
END_TEST

START_TEST(test_id_that_a_backend_gives_to_another_identity_is_that_one_s)
{
    apr_uint64_t member;

    make_table(8);
    learn(1, 1, 5, START);
    ck_assert_int_eq(learn(1, 2, 6, START), APR_SUCCESS);
    ck_assert_int_eq(find(1, 1, START, &member), APR_EACCES);
    ck_assert_int_eq(find(1, 2, START, &member), APR_SUCCESS);
    ck_assert_uint_eq(member, 6);
    ck_assert_uint_eq(count(), 1);
    check_table();
}
END_TEST

START_TEST(test_forgotten_session_is_gone_and_its_room_free)
{
    make_table(1);
    learn(1, 1, 5, START);
    forget(1, 1);
    forget(1, 1);
    ck_assert(!is_known(1, 1, START));
    ck_assert_uint_eq(count(), 0);
    ck_assert_int_eq(learn(2, 2, 5, START), APR_SUCCESS);
    check_table();
}
END_TEST

START_TEST(test_session_is_forgotten_a_time_to_live_after_its_last_use)
{
    make_table(8);
    learn(1, 1, 5, START);
    ck_assert(is_known(1, 1, START + TTL - 1));
    ck_assert(is_known(1, 1, START + 2 * TTL - 2));
    ck_assert(!is_known(1, 1, START + 3 * TTL - 2));
    ck_assert_uint_eq(count(), 0);
    check_table();
}
END_TEST

START_TEST(test_learning_again_is_a_use)
{
    make_table(8);
    learn(1, 1, 5, START);
    learn(1, 1, 5, START + TTL - 1);
    ck_assert(is_known(1, 1, START + 2 * TTL - 2));
}
END_TEST

START_TEST(test_short_time_to_live_is_kept_although_uses_are_noted_rarely)
{
    apr_time_t now;

    make_table(8);
    mcp_session_table_set_ttl(table, SECOND);
    learn(1, 1, 5, START);
    for (now = START; now < START + 5 * SECOND; now += SECOND / 2) {
        ck_assert(is_known(1, 1, now));
    }
    ck_assert(!is_known(1, 1, now + SECOND));
}
END_TEST

START_TEST(test_time_to_live_may_change)
{
    make_table(8);
    learn(1, 1, 5, START);
    mcp_session_table_set_ttl(table, 2 * TTL);
    ck_assert(is_known(1, 1, START + TTL));
    mcp_session_table_set_ttl(table, TTL / 2);
    ck_assert(!is_known(1, 1, START + TTL + TTL / 2));
}
END_TEST

START_TEST(test_caller_with_an_older_clock_changes_nothing)
{
    make_table(8);
    learn(1, 1, 5, START);
    learn(2, 1, 5, START - SECOND);
    ck_assert(is_known(1, 1, START - 2 * SECOND));
    check_table();
    ck_assert(!is_known(1, 1, START + TTL));
    ck_assert(!is_known(2, 1, START));
}
END_TEST

START_TEST(test_held_session_ages_from_the_end_of_its_hold)
{
    make_table(8);
    learn(1, 1, 5, START);
    hold(1, 1, START + 3 * TTL);
    ck_assert_uint_eq(mcp_session_sweep(table, START + 2 * TTL, 100), 0);
    ck_assert_uint_eq(mcp_session_sweep(table, START + 4 * TTL - 1, 100), 0);
    check_table();
    ck_assert_uint_eq(mcp_session_sweep(table, START + 4 * TTL, 100), 1);
    check_table();
}
END_TEST

START_TEST(test_longest_hold_counts)
{
    make_table(8);
    learn(1, 1, 5, START);
    hold(1, 1, START + 3 * TTL);
    hold(1, 1, START + TTL);
    ck_assert_uint_eq(mcp_session_sweep(table, START + 4 * TTL - 1, 100), 0);
    check_table();
}
END_TEST

START_TEST(test_hold_that_is_over_or_of_nobody_is_none)
{
    make_table(8);
    learn(1, 1, 5, START);
    hold(1, 1, START);
    hold(2, 1, START + TTL);
    ck_assert_uint_eq(count(), 1);
    ck_assert(!is_known(1, 1, START + TTL));
    check_table();
}
END_TEST

START_TEST(test_sweep_drops_what_is_out_of_time_and_no_more_than_asked)
{
    unsigned i;

    make_table(64);
    for (i = 0; i < 10; i++) {
        learn(i, i % 3, 5, START + i * SECOND);
    }
    ck_assert_uint_eq(mcp_session_sweep(table, START + TTL - 1, 100), 0);
    ck_assert_uint_eq(mcp_session_sweep(table, START + TTL + 5 * SECOND, 4), 4);
    ck_assert_uint_eq(mcp_session_sweep(table, START + TTL + 5 * SECOND, 4), 2);
    for (i = 0; i < 10; i++) {
        ck_assert_int_eq(is_there(i), i > 5);
    }
    check_table();
}
END_TEST

START_TEST(test_full_table_drops_what_is_out_of_time_before_it_evicts)
{
    make_table(3);
    learn(1, 1, 5, START);
    learn(2, 2, 5, START + SECOND);
    learn(3, 2, 5, START + SECOND);
    ck_assert_int_eq(learn(4, 3, 5, START + TTL), APR_SUCCESS);
    ck_assert(!is_there(1));
    ck_assert(is_there(2) && is_there(3) && is_there(4));
    check_table();
}
END_TEST

START_TEST(test_full_table_evicts_from_the_identity_with_most_its_least_recently_used)
{
    make_table(6);
    learn(1, 1, 5, START);
    learn(2, 2, 5, START + 1 * SECOND);
    learn(3, 2, 5, START + 2 * SECOND);
    learn(4, 2, 5, START + 3 * SECOND);
    learn(5, 3, 5, START + 4 * SECOND);
    learn(6, 3, 5, START + 5 * SECOND);
    ck_assert(is_known(2, 2, START + 6 * SECOND));
    ck_assert_int_eq(learn(7, 4, 5, START + 7 * SECOND), APR_SUCCESS);
    ck_assert_msg(!is_there(3), "the one of identity 2 that was used before the others");
    ck_assert_uint_eq(count(), 6);
    check_table();
}
END_TEST

START_TEST(test_flood_of_one_identity_evicts_only_its_own)
{
    unsigned i;

    make_table(100);
    for (i = 0; i < 50; i++) {
        learn(i, i, 5, START);
    }
    for (i = 1000; i < 3000; i++) {
        ck_assert_int_eq(learn(i, 999, 5, START + i), APR_SUCCESS);
    }
    for (i = 0; i < 50; i++) {
        ck_assert(is_there(i));
    }
    for (i = 2950; i < 3000; i++) {
        ck_assert(is_there(i));
    }
    check_table();
}
END_TEST

START_TEST(test_held_session_is_not_evicted)
{
    make_table(4);
    learn(1, 1, 5, START);
    learn(2, 1, 5, START + SECOND);
    learn(3, 1, 5, START + 2 * SECOND);
    learn(4, 2, 5, START + 3 * SECOND);
    hold(1, 1, START + TTL / 2);
    learn(5, 3, 5, START + 4 * SECOND);
    ck_assert(is_there(1) && !is_there(2));
    check_table();
}
END_TEST

START_TEST(test_eviction_goes_to_the_next_identity_where_all_of_one_is_held)
{
    make_table(5);
    learn(1, 1, 5, START);
    learn(2, 1, 5, START);
    learn(3, 1, 5, START);
    learn(4, 2, 5, START + SECOND);
    learn(5, 3, 5, START + SECOND);
    hold(1, 1, START + TTL);
    hold(2, 1, START + TTL);
    hold(3, 1, START + TTL);
    check_table();
    ck_assert_int_eq(learn(6, 2, 5, START + 2 * SECOND), APR_SUCCESS);
    ck_assert(is_there(1) && is_there(2) && is_there(3));
    ck_assert_int_ne(is_there(4), is_there(5));
    check_table();
}
END_TEST

START_TEST(test_table_with_every_session_held_has_no_room_until_a_hold_ends)
{
    apr_uint64_t member;

    make_table(2);
    learn(1, 1, 5, START);
    learn(2, 2, 6, START);
    hold(1, 1, START + 50 * SECOND);
    hold(2, 2, START + 60 * SECOND);
    ck_assert_int_eq(learn(3, 3, 7, START + 49 * SECOND), APR_ENOSPC);
    ck_assert_int_eq(find(3, 3, START + 49 * SECOND, &member), APR_NOTFOUND);
    ck_assert_int_eq(learn(2, 2, 8, START + 49 * SECOND), APR_SUCCESS);
    check_table();
    ck_assert_int_eq(learn(3, 3, 7, START + 50 * SECOND), APR_SUCCESS);
    ck_assert(!is_there(1) && is_there(2) && is_there(3));
    check_table();
}
END_TEST

START_TEST(test_count_tells_all_and_those_of_a_member)
{
    unsigned of_member = 99, i;

    make_table(8);
    ck_assert_uint_eq(mcp_session_count(table, 5, &of_member), 0);
    ck_assert_uint_eq(of_member, 0);
    for (i = 0; i < 6; i++) {
        learn(i, 1, i < 2 ? 5 : 6, START);
    }
    forget(0, 1);
    ck_assert_uint_eq(mcp_session_count(table, 5, &of_member), 5);
    ck_assert_uint_eq(of_member, 1);
}
END_TEST

START_TEST(test_digests_with_the_same_hash_are_told_apart)
{
    mcp_session_key_t keys[4] = { 0 };
    apr_uint64_t member;
    unsigned i;

    make_table(8);
    for (i = 0; i < 4; i++) {
        keys[i].id[MCP_SESSION_DIGEST - 1] = (unsigned char)i;
        keys[i].owner[MCP_SESSION_DIGEST - 1] = (unsigned char)i;
        ck_assert_int_eq(mcp_session_learn(table, &keys[i], i, START), APR_SUCCESS);
    }
    mcp_session_forget(table, &keys[1]);
    for (i = 0; i < 4; i++) {
        ck_assert_int_eq(mcp_session_find(table, &keys[i], START, &member),
                         i == 1 ? APR_NOTFOUND : APR_SUCCESS);
        ck_assert(i == 1 || member == i);
    }
    check_table();
}
END_TEST

/* Whether a use at that time is to be told; what was told before `since` is too old. */
static int is_due(unsigned session, apr_time_t now, apr_time_t since)
{
    mcp_session_key_t k = key(session, 1);
    apr_uint64_t member;
    int due;

    ck_assert_int_eq(mcp_session_use(table, &k, now, since, &member, &due), APR_SUCCESS);
    return due;
}

START_TEST(test_one_use_is_to_be_told_of_what_no_store_knows)
{
    mcp_session_key_t k = key(1, 1), stranger = key(1, 2);

    make_table(8);
    learn(1, 1, 7, START);
    ck_assert(!is_due(1, START, 0));
    ck_assert(is_due(1, START + 5, START + 1) && !is_due(1, START + 6, START + 2));
    ck_assert(is_due(1, START + 20, START + 6));
    mcp_session_told(table, &stranger, 0);
    ck_assert(!is_due(1, START + 21, START + 7));
    mcp_session_told(table, &k, 0);
    ck_assert(is_due(1, START + 22, START + 8));
    learn(1, 1, 8, START + 23);
    ck_assert(is_due(1, START + 24, START + 9));
    drop_table();
}
END_TEST

static void add_rules(TCase *tc)
{
    tcase_add_test(tc, test_session_is_found_where_it_was_learnt);
    tcase_add_test(tc, test_session_moves_to_another_member_without_a_second_entry);
    tcase_add_test(tc, test_session_of_another_identity_is_denied_and_unharmed);
    tcase_add_test(tc, test_stranger_cannot_hold_a_session);
    tcase_add_test(tc, test_id_that_a_backend_gives_to_another_identity_is_that_one_s);
    tcase_add_test(tc, test_forgotten_session_is_gone_and_its_room_free);
    tcase_add_test(tc, test_count_tells_all_and_those_of_a_member);
    tcase_add_test(tc, test_digests_with_the_same_hash_are_told_apart);
    tcase_add_test(tc, test_one_use_is_to_be_told_of_what_no_store_knows);
}

static void add_times(TCase *tc)
{
    tcase_add_test(tc, test_session_is_forgotten_a_time_to_live_after_its_last_use);
    tcase_add_test(tc, test_learning_again_is_a_use);
    tcase_add_test(tc, test_short_time_to_live_is_kept_although_uses_are_noted_rarely);
    tcase_add_test(tc, test_time_to_live_may_change);
    tcase_add_test(tc, test_caller_with_an_older_clock_changes_nothing);
    tcase_add_test(tc, test_held_session_ages_from_the_end_of_its_hold);
    tcase_add_test(tc, test_longest_hold_counts);
    tcase_add_test(tc, test_hold_that_is_over_or_of_nobody_is_none);
    tcase_add_test(tc, test_sweep_drops_what_is_out_of_time_and_no_more_than_asked);
}

static void add_evictions(TCase *tc)
{
    tcase_add_test(tc, test_full_table_drops_what_is_out_of_time_before_it_evicts);
    tcase_add_test(tc, test_full_table_evicts_from_the_identity_with_most_its_least_recently_used);
    tcase_add_test(tc, test_flood_of_one_identity_evicts_only_its_own);
    tcase_add_test(tc, test_held_session_is_not_evicted);
    tcase_add_test(tc, test_eviction_goes_to_the_next_identity_where_all_of_one_is_held);
    tcase_add_test(tc, test_table_with_every_session_held_has_no_room_until_a_hold_ends);
}

int main(void)
{
    Suite *suite = suite_create("mcp_proxy_session");

    add_case(suite, "rules", add_rules);
    add_case(suite, "times", add_times);
    add_case(suite, "evictions", add_evictions);
    return run_suite(suite);
}
