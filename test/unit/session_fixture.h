/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SESSION_FIXTURE_H
#define SESSION_FIXTURE_H

/* A session table in shared memory, and short names for what the tests do with it. */
#include "mcp_proxy_session.h"
#include "mcp_proxy_session_index.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "run_suite.h"

#define SECOND APR_USEC_PER_SEC
#define TTL (100 * SECOND)
#define START (1000 * SECOND)

static mcp_session_table_t *table;
static void *memory;
static apr_size_t memory_size;

static inline void make_table(unsigned entries)
{
    memory_size = mcp_session_table_size(entries);
    memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    table = mcp_session_table_init(memory, entries, TTL);
    ck_assert_ptr_nonnull(table);
}

static inline void drop_table(void)
{
    munmap(memory, memory_size);
}

static inline void check_table(void)
{
    const char *wrong = mcp_session_check(table);

    ck_assert_msg(!wrong, "%s", wrong);
}

static inline void digest(unsigned char *to, unsigned kind, unsigned number)
{
    apr_uint64_t words[2] = { (number * 2ull + 1) * 0x9e3779b97f4a7c15ull + kind, number };

    words[0] ^= words[0] >> 29;
    memcpy(to, words, MCP_SESSION_DIGEST);
}

static inline mcp_session_key_t key(unsigned session, unsigned owner)
{
    mcp_session_key_t made;

    digest(made.id, 1, session);
    digest(made.owner, 2, owner);
    return made;
}

static inline apr_status_t learn(unsigned session, unsigned owner, apr_uint64_t member,
                                 apr_time_t now)
{
    const mcp_session_key_t made = key(session, owner);

    return mcp_session_learn(table, &made, member, now);
}

static inline apr_status_t find(unsigned session, unsigned owner, apr_time_t now,
                                apr_uint64_t *member)
{
    const mcp_session_key_t made = key(session, owner);

    return mcp_session_find(table, &made, now, member);
}

static inline int is_known(unsigned session, unsigned owner, apr_time_t now)
{
    apr_uint64_t member;

    return find(session, owner, now, &member) == APR_SUCCESS;
}

static inline void hold(unsigned session, unsigned owner, apr_time_t until)
{
    const mcp_session_key_t made = key(session, owner);

    mcp_session_hold(table, &made, until);
}

static inline void forget(unsigned session, unsigned owner)
{
    const mcp_session_key_t made = key(session, owner);

    mcp_session_forget(table, &made);
}

/* Without a use, which is_known() is. */
static inline int is_there(unsigned session)
{
    const mcp_session_key_t made = key(session, 0);

    return mcp_session_lookup(table, made.id) != 0;
}

static inline unsigned count(void)
{
    unsigned of_member;

    return mcp_session_count(table, 0, &of_member);
}

static inline void add_case(Suite *suite, const char *name, void (*add)(TCase *tc))
{
    TCase *tc = tcase_create(name);

    tcase_add_checked_fixture(tc, NULL, drop_table);
    tcase_set_timeout(tc, 120);
    add(tc);
    suite_add_tcase(suite, tc);
}

#endif
