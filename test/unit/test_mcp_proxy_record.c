/* SPDX-License-Identifier: Apache-2.0 */
/* Records of sessions that can be rescued: encrypted, bound to what they are of, and read back. */
#include "mcp_proxy_record.h"

#include "cache_fixture.h"

#define PARAMS "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{}}"

static mcp_record_keys_t keys;

static void make_keys(void)
{
    make_pool();
    memset(&keys, 0, sizeof(keys));
    ck_assert_int_eq(mcp_record_add_key(&keys, "one", 3), APR_SUCCESS);
}

static mcp_session_key_t session(char id, char owner)
{
    mcp_session_key_t key;

    memset(key.id, id, sizeof(key.id));
    memset(key.owner, owner, sizeof(key.owner));
    return key;
}

static mcp_span_t encrypted(const mcp_session_key_t *key, mcp_record_kind_e kind, const char *text)
{
    mcp_span_t sealed;

    ck_assert_int_eq(mcp_record_encrypt(&keys, key, kind, span(text), pool, &sealed), APR_SUCCESS);
    return sealed;
}

static int opens(const mcp_session_key_t *key, mcp_record_kind_e kind, mcp_span_t sealed)
{
    mcp_span_t plain;

    return mcp_record_decrypt(&keys, key, kind, sealed, pool, &plain) == APR_SUCCESS
        && plain.len == strlen(PARAMS) && !strcmp(plain.p, PARAMS);
}

START_TEST(what_was_encrypted_is_read_back_and_stands_nowhere_in_the_clear)
{
    mcp_session_key_t key = session('a', 'o');
    mcp_span_t one = encrypted(&key, MCP_RECORD_PARAMS, PARAMS);
    mcp_span_t two = encrypted(&key, MCP_RECORD_PARAMS, PARAMS);
    apr_size_t i;

    ck_assert(opens(&key, MCP_RECORD_PARAMS, one) && opens(&key, MCP_RECORD_PARAMS, two));
    ck_assert(one.len == two.len && memcmp(one.p, two.p, one.len));
    for (i = 0; i + 8 < one.len; i++) {
        ck_assert(memcmp(one.p + i, "protocol", 8) != 0);
    }
}
END_TEST

START_TEST(a_record_of_another_session_owner_or_kind_does_not_open)
{
    mcp_session_key_t key = session('a', 'o'), other = session('b', 'o');
    mcp_session_key_t foreign = session('a', 'x');
    mcp_span_t sealed = encrypted(&key, MCP_RECORD_PARAMS, PARAMS);

    ck_assert(!opens(&other, MCP_RECORD_PARAMS, sealed));
    ck_assert(!opens(&foreign, MCP_RECORD_PARAMS, sealed));
    ck_assert(!opens(&key, MCP_RECORD_ROUTE, sealed));
}
END_TEST

START_TEST(no_byte_may_be_changed_and_none_missing)
{
    mcp_session_key_t key = session('a', 'o');
    mcp_span_t sealed = encrypted(&key, MCP_RECORD_PARAMS, PARAMS), cut = sealed;
    char *bytes = apr_pmemdup(pool, sealed.p, sealed.len);
    apr_size_t i;

    sealed.p = bytes;
    for (i = 0; i < sealed.len; i++) {
        bytes[i] ^= 1;
        ck_assert_msg(!opens(&key, MCP_RECORD_PARAMS, sealed), "byte %d", (int)i);
        bytes[i] ^= 1;
    }
    ck_assert(opens(&key, MCP_RECORD_PARAMS, sealed));
    while (cut.len--) {
        ck_assert(!opens(&key, MCP_RECORD_PARAMS, cut));
    }
}
END_TEST

START_TEST(an_older_key_opens_and_an_unknown_one_does_not)
{
    mcp_session_key_t key = session('a', 'o');
    mcp_span_t sealed = encrypted(&key, MCP_RECORD_PARAMS, PARAMS);

    keys.count = 0;
    ck_assert_int_eq(mcp_record_add_key(&keys, "two", 3), APR_SUCCESS);
    ck_assert(!opens(&key, MCP_RECORD_PARAMS, sealed));
    ck_assert_int_eq(mcp_record_add_key(&keys, "one", 3), APR_SUCCESS);
    ck_assert(opens(&key, MCP_RECORD_PARAMS, sealed));
}
END_TEST

START_TEST(names_differ_by_session_owner_and_kind)
{
    unsigned char name[4][MCP_RECORD_NAME];
    mcp_session_key_t a = session('a', 'o'), b = session('b', 'o'), c = session('a', 'p');
    int i, j;

    mcp_record_name(&a, MCP_RECORD_PARAMS, name[0]);
    mcp_record_name(&a, MCP_RECORD_ROUTE, name[1]);
    mcp_record_name(&b, MCP_RECORD_PARAMS, name[2]);
    mcp_record_name(&c, MCP_RECORD_PARAMS, name[3]);
    for (i = 0; i < 4; i++) {
        for (j = 0; j < i; j++) {
            ck_assert(memcmp(name[i], name[j], MCP_RECORD_NAME));
        }
    }
}
END_TEST

START_TEST(a_route_is_read_as_it_was_written)
{
    mcp_record_route_t route = { 0x01020304, "member", "an-id", apr_time_from_sec(12345678901), 2 };
    mcp_record_route_t read;
    mcp_span_t bytes = mcp_record_write_route(&route, pool), cut;

    ck_assert_int_eq(mcp_record_read_route(bytes, &read), APR_SUCCESS);
    ck_assert_uint_eq(read.generation, route.generation);
    ck_assert_uint_eq(read.recent, 2);
    ck_assert(read.since == route.since);
    ck_assert_str_eq(read.member, "member");
    ck_assert_str_eq(read.session, "an-id");
    for (cut = bytes; cut.len--;) {
        ck_assert_int_eq(mcp_record_read_route(cut, &read), APR_EGENERAL);
    }
}
END_TEST

START_TEST(three_rescues_a_minute_and_no_more)
{
    mcp_record_route_t route = { 0, "", "", 0, 0 };
    apr_time_t now = apr_time_from_sec(1000);
    int i;

    for (i = 0; i < 3; i++) {
        ck_assert(mcp_record_may_rescue(&route, now + i));
    }
    ck_assert(!mcp_record_may_rescue(&route, now + apr_time_from_sec(59)));
    ck_assert(mcp_record_may_rescue(&route, now + apr_time_from_sec(60)));
    /* A clock that was set back does not lock a session out. */
    ck_assert(mcp_record_may_rescue(&route, now));
}
END_TEST

int main(void)
{
    TCase *record = tcase_create("record");
    Suite *suite = suite_create("mcp_proxy_record");

    tcase_add_checked_fixture(record, make_keys, drop_pool);
    tcase_add_test(record, what_was_encrypted_is_read_back_and_stands_nowhere_in_the_clear);
    tcase_add_test(record, a_record_of_another_session_owner_or_kind_does_not_open);
    tcase_add_test(record, no_byte_may_be_changed_and_none_missing);
    tcase_add_test(record, an_older_key_opens_and_an_unknown_one_does_not);
    tcase_add_test(record, names_differ_by_session_owner_and_kind);
    tcase_add_test(record, a_route_is_read_as_it_was_written);
    tcase_add_test(record, three_rescues_a_minute_and_no_more);
    suite_add_tcase(suite, record);
    return run_suite(suite);
}
