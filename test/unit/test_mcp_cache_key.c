/* SPDX-License-Identifier: Apache-2.0 */
/* The digest: moved by each part, never by where one part ends and the next begins. */
#include "mcp_cache_key.h"

#include "cache_fixture.h"

static const char *digest(const mcp_cache_key_t *key)
{
    unsigned char bytes[MCP_CACHE_DIGEST];

    mcp_cache_key_digest(key, pool, bytes);
    return mcp_cache_hex(bytes, sizeof(bytes), pool);
}

static mcp_cache_key_t some_key(void)
{
    mcp_cache_key_t key = {"here", "tools/call", "2026-07-28", "own", "user:alice", NULL, NULL,
                           {NULL, 0}, {NULL, 0}};

    ck_assert_int_eq(mcp_cache_key_params(&key, span("{\"name\":\"t\",\"arguments\":{}}"), pool),
                     APR_SUCCESS);
    return key;
}

static const char *of_params(const char *params)
{
    mcp_cache_key_t key = some_key();

    return mcp_cache_key_params(&key, span(params), pool) == APR_SUCCESS ? digest(&key) : NULL;
}

START_TEST(each_part_moves_the_digest)
{
    const mcp_cache_key_t base = some_key();
    const char *before = digest(&base);
    mcp_cache_key_t key;

#define MOVES(part, value) \
    do { \
        key = base; \
        key.part = (value); \
        ck_assert_str_ne(digest(&key), before); \
    } while (0)
    MOVES(where, "there");
    MOVES(method, "tools/list");
    MOVES(version, "2025-11-25");
    MOVES(version, NULL);
    MOVES(audience, "public");
    MOVES(caller, "user:bob");
    MOVES(caller, NULL);
    MOVES(caller, "");
    MOVES(session, "");
    MOVES(session, "s");
    MOVES(vary, "Origin\nx");
    MOVES(params, span("{}"));
    MOVES(capabilities, span("{}"));
#undef MOVES
    key = base;
    ck_assert_str_eq(digest(&key), before);
}
END_TEST

START_TEST(a_part_cannot_reach_into_the_next)
{
    mcp_cache_key_t a = some_key(), b = some_key();

    a.caller = "ab";
    a.session = "c";
    b.caller = "a";
    b.session = "bc";
    ck_assert_str_ne(digest(&a), digest(&b));
    a.caller = "user:alice\n";
    a.session = NULL;
    b.caller = "user:alice";
    b.session = "\n";
    ck_assert_str_ne(digest(&a), digest(&b));
}
END_TEST

START_TEST(meta_does_not_count_but_capabilities_do)
{
    const char *plain = of_params("{\"name\":\"t\",\"arguments\":{\"x\":1}}");

    ck_assert_str_eq(of_params("{\"arguments\":{\"x\":1},\"_meta\":{\"progressToken\":7},"
                               "\"name\":\"t\"}"), plain);
    ck_assert_str_ne(of_params("{\"name\":\"t\",\"arguments\":{\"x\":1},\"_meta\":{\"io."
                               "modelcontextprotocol/clientCapabilities\":{\"roots\":{}}}}"),
                     plain);
}
END_TEST

START_TEST(absent_null_and_empty_arguments_are_three_things)
{
    const char *absent = of_params("{\"name\":\"t\"}");
    const char *null = of_params("{\"name\":\"t\",\"arguments\":null}");
    const char *empty = of_params("{\"name\":\"t\",\"arguments\":{}}");

    ck_assert_str_ne(absent, null);
    ck_assert_str_ne(absent, empty);
    ck_assert_str_ne(null, empty);
}
END_TEST

START_TEST(bad_params_have_no_key)
{
    ck_assert_ptr_null(of_params("{\"name\":\"t\",\"arguments\":{\"x\":1,\"x\":1}}"));
    ck_assert_ptr_null(of_params("{\"name\":\"t\",\"arguments\":{\"x\":\"\\ud800\"}}"));
    ck_assert_ptr_null(of_params("{\"name\":\"t\",\"arguments\":{\"x\":\"\\u0000\"}}"));
    ck_assert_ptr_null(of_params("{\"name\":\"t\",\"arguments\":{\"x\":NaN}}"));
}
END_TEST

START_TEST(the_hash_is_moved_by_each_byte_and_by_the_length)
{
    char bytes[64] = {0};
    apr_uint64_t seen[64 + 64], hash;
    int i, j, n = 0;

    for (i = 0; i < 64; i++) {
        seen[n++] = mcp_cache_hash(bytes, (apr_size_t)i, 1);
    }
    for (i = 0; i < 64; i++) {
        bytes[i] = 1;
        seen[n++] = mcp_cache_hash(bytes, sizeof(bytes), 1);
        bytes[i] = 0;
    }
    for (i = 0; i < n; i++) {
        hash = seen[i];
        for (j = 0; j < i; j++) {
            ck_assert(seen[j] != hash);
        }
    }
}
END_TEST

int main(void)
{
    TCase *keys = tcase_create("keys");
    Suite *suite = suite_create("mcp_cache_key");

    tcase_add_checked_fixture(keys, make_pool, drop_pool);
    tcase_add_test(keys, each_part_moves_the_digest);
    tcase_add_test(keys, a_part_cannot_reach_into_the_next);
    tcase_add_test(keys, meta_does_not_count_but_capabilities_do);
    tcase_add_test(keys, absent_null_and_empty_arguments_are_three_things);
    tcase_add_test(keys, bad_params_have_no_key);
    tcase_add_test(keys, the_hash_is_moved_by_each_byte_and_by_the_length);
    suite_add_tcase(suite, keys);
    return run_suite(suite);
}
