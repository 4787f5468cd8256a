/* SPDX-License-Identifier: Apache-2.0 */
/* Equal misses: one leads, the others wait, and a leader that fails or dies is followed. */
#include "mcp_cache_flight.h"

#include <sys/wait.h>
#include <unistd.h>

#include "cache_fixture.h"

static mcp_cache_flights_t *flights;

static void make_table(void)
{
    make_memory(mcp_cache_flight_size());
    flights = mcp_cache_flight_init(memory);
}

static const unsigned char *digest_of(unsigned number)
{
    static unsigned char digest[MCP_CACHE_DIGEST];

    memset(digest, 0, sizeof(digest));
    memcpy(digest, &number, sizeof(number));
    return digest;
}

static mcp_cache_flight_e join(unsigned number, mcp_cache_ticket_t *ticket)
{
    return mcp_cache_flight_join(flights, digest_of(number), 1, mcp_clock_now(), ticket);
}

START_TEST(one_leads_and_the_others_wait)
{
    mcp_cache_ticket_t leader, waiter, other;
    int i;

    ck_assert_int_eq(join(1, &leader), MCP_CACHE_FLIGHT_LEAD);
    for (i = 0; i < 1000; i++) {
        ck_assert_int_eq(join(1, &waiter), MCP_CACHE_FLIGHT_WAIT);
    }
    ck_assert_int_eq(join(2, &other), MCP_CACHE_FLIGHT_LEAD);
    ck_assert(mcp_cache_flight_is_up(flights, &waiter));
    mcp_cache_flight_land(flights, &leader, MCP_CACHE_LANDED_FAILED);
    ck_assert(!mcp_cache_flight_is_up(flights, &waiter));
    ck_assert(mcp_cache_flight_is_up(flights, &other));
}
END_TEST

START_TEST(after_a_landing_the_next_leads_again)
{
    mcp_cache_ticket_t leader, next;

    join(1, &leader);
    mcp_cache_flight_land(flights, &leader, MCP_CACHE_LANDED_FAILED);
    ck_assert_int_eq(join(1, &next), MCP_CACHE_FLIGHT_LEAD);
    /* What the first one says late does not land the second. */
    mcp_cache_flight_land(flights, &leader, MCP_CACHE_LANDED_FAILED);
    ck_assert(mcp_cache_flight_is_up(flights, &next));
}
END_TEST

START_TEST(after_an_answer_that_may_not_be_stored_nobody_waits_for_a_while)
{
    mcp_cache_ticket_t leader, next;

    join(1, &leader);
    mcp_cache_flight_land(flights, &leader, MCP_CACHE_LANDED_REFUSED);
    ck_assert_int_eq(join(1, &next), MCP_CACHE_FLIGHT_ALONE);
    mcp_clock_set(START + MCP_CACHE_FLIGHT_ALONE_FOR);
    ck_assert_int_eq(join(1, &next), MCP_CACHE_FLIGHT_LEAD);
    ck_assert_int_eq(join(1, &leader), MCP_CACHE_FLIGHT_WAIT);
}
END_TEST

START_TEST(who_looked_before_an_answer_was_stored_looks_again)
{
    mcp_cache_ticket_t leader, next;

    join(1, &leader);
    mcp_clock_set(START + 10);
    mcp_cache_flight_land(flights, &leader, MCP_CACHE_LANDED_STORED);
    mcp_clock_set(START + 20);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(1), 1, START + 10, &next),
                     MCP_CACHE_FLIGHT_AGAIN);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(1), 1, START + 11, &next),
                     MCP_CACHE_FLIGHT_LEAD);
}
END_TEST

START_TEST(another_version_is_another_flight_and_none_waits_for_any)
{
    mcp_cache_ticket_t ticket;

    join(1, &ticket);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(1), 2, START, &ticket),
                     MCP_CACHE_FLIGHT_LEAD);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(1), 0, START, &ticket),
                     MCP_CACHE_FLIGHT_WAIT);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(2), 0, START, &ticket),
                     MCP_CACHE_FLIGHT_LEAD);
    ck_assert_int_eq(mcp_cache_flight_join(flights, digest_of(2), 1, START, &ticket),
                     MCP_CACHE_FLIGHT_LEAD);
}
END_TEST

START_TEST(a_full_table_sends_everybody_on_alone)
{
    mcp_cache_ticket_t ticket;
    unsigned i;
    int leaders = 0;

    for (i = 0; i < 100; i++) { /* digests that all end alike: one set */
        leaders += join(i, &ticket) == MCP_CACHE_FLIGHT_LEAD;
    }
    ck_assert_int_eq(leaders, 16);
    ck_assert_int_eq(join(1000, &ticket), MCP_CACHE_FLIGHT_ALONE);
}
END_TEST

START_TEST(a_leader_whose_process_died_is_found_out)
{
    mcp_cache_ticket_t waiter;
    pid_t child = fork();
    int status;

    if (!child) {
        mcp_cache_ticket_t leader;

        _exit(join(1, &leader) == MCP_CACHE_FLIGHT_LEAD ? 0 : 1);
    }
    waitpid(child, &status, 0);
    ck_assert(WIFEXITED(status) && !WEXITSTATUS(status));
    ck_assert_int_eq(join(1, &waiter), MCP_CACHE_FLIGHT_WAIT);
    mcp_cache_flight_reap(flights, &waiter);
    ck_assert(!mcp_cache_flight_is_up(flights, &waiter));
    ck_assert_int_eq(join(1, &waiter), MCP_CACHE_FLIGHT_LEAD);
    mcp_cache_flight_reap(flights, &waiter); /* this process lives */
    ck_assert(mcp_cache_flight_is_up(flights, &waiter));
}
END_TEST

int main(void)
{
    TCase *table = tcase_create("flights");
    Suite *suite = suite_create("mcp_cache_flight");

    tcase_add_checked_fixture(table, make_table, drop_memory);
    tcase_add_test(table, one_leads_and_the_others_wait);
    tcase_add_test(table, after_a_landing_the_next_leads_again);
    tcase_add_test(table, after_an_answer_that_may_not_be_stored_nobody_waits_for_a_while);
    tcase_add_test(table, who_looked_before_an_answer_was_stored_looks_again);
    tcase_add_test(table, another_version_is_another_flight_and_none_waits_for_any);
    tcase_add_test(table, a_full_table_sends_everybody_on_alone);
    tcase_add_test(table, a_leader_whose_process_died_is_found_out);
    suite_add_tcase(suite, table);
    return run_suite(suite);
}
