/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions as they stand in Redis: what is written is read, and nothing else is. */
#include "mcp_proxy_far_value.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "run_suite.h"

static mcp_session_key_t session(char id, char owner)
{
    mcp_session_key_t key;

    memset(key.id, id, sizeof(key.id));
    memset(key.owner, owner, sizeof(key.owner));
    return key;
}

static apr_status_t parse(const char *value)
{
    mcp_session_key_t key = session(1, 0x0f);
    char member[MCP_FAR_MEMBER_SIZE];

    return mcp_far_parse(&key, value, strlen(value), member);
}

#define OWNER "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"

START_TEST(a_session_has_one_key_and_its_value_is_read_back)
{
    mcp_session_key_t key = session(0x1a, 0x0f), other = session(0x1a, 0x10);
    char text[MCP_FAR_KEY_SIZE], value[MCP_FAR_VALUE_SIZE], member[MCP_FAR_MEMBER_SIZE];

    mcp_far_key(&key, text);
    ck_assert_str_eq(text, "mcp:session:{1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a}");
    ck_assert(mcp_far_value(&key, "#00ff", value));
    ck_assert_str_eq(value, "1 " OWNER " #00ff");
    ck_assert_int_eq(mcp_far_parse(&key, value, strlen(value), member), APR_SUCCESS);
    ck_assert_str_eq(member, "#00ff");
    ck_assert_int_eq(mcp_far_parse(&other, value, strlen(value), member), APR_EACCES);
}
END_TEST

START_TEST(what_is_no_value_is_no_session)
{
    static const char *const bad[] = {
        "", "1", "1 ", "1 " OWNER, "1 " OWNER " ", "2 " OWNER " a", "1 " OWNER "  a",
        "1 " OWNER " a b", "1 " OWNER " a\n", "1 0F0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f a", "1 0f0f a"
    };
    size_t i, len = strlen("1 " OWNER " a");

    ck_assert_int_eq(parse("1 " OWNER " a"), APR_SUCCESS);
    for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        ck_assert_msg(parse(bad[i]) == APR_NOTFOUND, "%s", bad[i]);
    }
    for (i = 0; i < len; i++) {
        char cut[64];

        memcpy(cut, "1 " OWNER " a", len);
        cut[i] = '\0';
        ck_assert_int_eq(parse(cut), APR_NOTFOUND);
    }
}
END_TEST

START_TEST(a_member_has_a_name_that_fits)
{
    mcp_session_key_t key = session(1, 2);
    char value[MCP_FAR_VALUE_SIZE], member[MCP_FAR_MEMBER_SIZE], name[MCP_FAR_MEMBER_SIZE + 1];

    memset(name, 'x', sizeof(name));
    name[MCP_FAR_MEMBER_SIZE] = '\0';
    ck_assert(!mcp_far_value(&key, name, value));
    name[MCP_FAR_MEMBER_SIZE - 1] = '\0';
    ck_assert(mcp_far_value(&key, name, value));
    ck_assert_int_eq(mcp_far_parse(&key, value, strlen(value), member), APR_SUCCESS);
    ck_assert_str_eq(member, name);
    ck_assert(!mcp_far_value(&key, "", value) && !mcp_far_value(&key, "a b", value));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("far_value");
    TCase *tc = tcase_create("far_value");

    tcase_add_test(tc, a_session_has_one_key_and_its_value_is_read_back);
    tcase_add_test(tc, what_is_no_value_is_no_session);
    tcase_add_test(tc, a_member_has_a_name_that_fits);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
