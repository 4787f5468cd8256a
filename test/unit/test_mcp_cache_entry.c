/* SPDX-License-Identifier: Apache-2.0 */
/* A stored value: read back as it was, or not at all. */
#include "mcp_cache_entry.h"

#include "cache_fixture.h"

static mcp_cache_entry_t some_entry(void)
{
    mcp_cache_entry_t entry;
    int i;

    memset(&entry, 0, sizeof(entry));
    for (i = 0; i < MCP_CACHE_DIGEST; i++) {
        entry.digest[i] = (unsigned char)(3 * i);
    }
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        entry.generation[i] = 1000U + (unsigned)i;
    }
    entry.ttl = apr_time_from_sec(300);
    entry.stale = apr_time_from_msec(1500);
    entry.flags = MCP_CACHE_ENTRY_SESSION;
    entry.hint_at = 2;
    entry.hint_len = 3;
    entry.headers = span("Vary: Origin\n");
    entry.payload = span("{\"a\":\"b\"}");
    return entry;
}

START_TEST(comes_back_as_it_was)
{
    mcp_cache_entry_t entry = some_entry(), back;
    mcp_span_t value = mcp_cache_entry_write(&entry, pool);

    ck_assert_int_eq(mcp_cache_entry_read(&back, value, entry.digest), APR_SUCCESS);
    ck_assert(back.ttl == entry.ttl && back.stale == entry.stale && back.flags == entry.flags
              && back.hint_at == 2 && back.hint_len == 3);
    ck_assert(!memcmp(back.generation, entry.generation, sizeof(back.generation)));
    ck_assert(back.payload.len == entry.payload.len
              && !memcmp(back.payload.p, entry.payload.p, back.payload.len));
    ck_assert(back.headers.len == entry.headers.len
              && !memcmp(back.headers.p, entry.headers.p, back.headers.len));
}
END_TEST

START_TEST(is_not_another_keys_answer)
{
    mcp_cache_entry_t entry = some_entry(), back;
    mcp_span_t value = mcp_cache_entry_write(&entry, pool);
    int i;

    for (i = 0; i < MCP_CACHE_DIGEST; i++) {
        unsigned char other[MCP_CACHE_DIGEST];

        memcpy(other, entry.digest, sizeof(other));
        other[i] ^= 1;
        ck_assert_int_eq(mcp_cache_entry_read(&back, value, other), APR_EINVAL);
    }
}
END_TEST

START_TEST(is_refused_with_any_bit_changed)
{
    mcp_cache_entry_t entry = some_entry(), back;
    mcp_span_t value = mcp_cache_entry_write(&entry, pool);
    char *bytes = apr_pmemdup(pool, value.p, value.len);
    mcp_span_t changed = {bytes, value.len};
    apr_size_t i;

    for (i = 0; i < 8 * value.len; i++) {
        bytes[i / 8] = (char)(bytes[i / 8] ^ 1 << i % 8);
        ck_assert_int_eq(mcp_cache_entry_read(&back, changed, entry.digest), APR_EINVAL);
        bytes[i / 8] = (char)(bytes[i / 8] ^ 1 << i % 8);
    }
    ck_assert_int_eq(mcp_cache_entry_read(&back, changed, entry.digest), APR_SUCCESS);
}
END_TEST

START_TEST(is_refused_at_any_other_length)
{
    mcp_cache_entry_t entry = some_entry(), back;
    mcp_span_t value = mcp_cache_entry_write(&entry, pool), cut;
    char *longer = apr_pcalloc(pool, value.len + 8);
    apr_size_t len;

    for (len = 0; len < value.len; len++) {
        /* A copy of that length, so that a sanitizer sees a read beyond it. */
        cut.p = memcpy(malloc(len + 1), value.p, len);
        cut.len = len;
        ck_assert_int_eq(mcp_cache_entry_read(&back, cut, entry.digest), APR_EINVAL);
        free((char *)cut.p);
    }
    memcpy(longer, value.p, value.len);
    cut.p = longer;
    cut.len = value.len + 1;
    ck_assert_int_eq(mcp_cache_entry_read(&back, cut, entry.digest), APR_EINVAL);
}
END_TEST

START_TEST(dies_with_any_of_its_generations)
{
    mcp_cache_entry_t entry = some_entry();
    mcp_cache_generations_t now;
    int i;

    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        now.tag[i] = 1;
        now.value[i] = entry.generation[i];
    }
    ck_assert(mcp_cache_entry_is_current(&entry, &now, 1));
    for (i = 0; i < MCP_CACHE_TAGS; i++) {
        int personal = i >= MCP_CACHE_TAG_CALLER && i <= MCP_CACHE_TAG_TOOL_USER;

        now.value[i]++;
        ck_assert(!mcp_cache_entry_is_current(&entry, &now, 1));
        ck_assert_int_eq(mcp_cache_entry_is_current(&entry, &now, 0), personal);
        now.value[i] = 0; /* not known */
        ck_assert(!mcp_cache_entry_is_current(&entry, &now, 1));
        now.tag[i] = 0; /* nothing of the sort concerns it */
        ck_assert(mcp_cache_entry_is_current(&entry, &now, 1));
        now.tag[i] = 1;
        now.value[i] = entry.generation[i];
    }
}
END_TEST

int main(void)
{
    TCase *entries = tcase_create("entries");
    Suite *suite = suite_create("mcp_cache_entry");

    tcase_add_checked_fixture(entries, make_pool, drop_pool);
    tcase_add_test(entries, comes_back_as_it_was);
    tcase_add_test(entries, is_not_another_keys_answer);
    tcase_add_test(entries, is_refused_with_any_bit_changed);
    tcase_add_test(entries, is_refused_at_any_other_length);
    tcase_add_test(entries, dies_with_any_of_its_generations);
    suite_add_tcase(suite, entries);
    return run_suite(suite);
}
