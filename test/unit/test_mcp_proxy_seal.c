/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed ids: one text for one session, opened by its identity only, and not with a single bit
 * changed. The texts of golden_cases were made by another implementation (Python's cryptography).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <check.h>
#include <apr_general.h>
#include <apr_strings.h>

#include "mcp_proxy_seal.h"
#include "run_suite.h"

#define SCOPE "balancer://mcp"
#define ALICE "localhost:80:test:alice"
#define UUID "1e0c2b8e-9a53-4f0a-8f4e-0123456789ab"
#define ALPHABET "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

static apr_pool_t *pool;
static mcp_seal_t *seal;

/* A seal of keys that are counted up from each of these bytes, the first one sealing. */
static mcp_seal_t *make_seal(const unsigned char *starts, int count)
{
    unsigned char bytes[4][MCP_KEY_BYTES];
    mcp_keys_t keys = { count, bytes };
    mcp_seal_t *made;
    int i, j;

    for (i = 0; i < count; i++) {
        for (j = 0; j < MCP_KEY_BYTES; j++) {
            bytes[i][j] = (unsigned char)(starts[i] + j);
        }
    }
    ck_assert_int_eq(mcp_seal_create(&made, &keys, pool), APR_SUCCESS);
    return made;
}

static void setup(void)
{
    apr_pool_create(&pool, NULL);
    seal = make_seal((const unsigned char[]){ 0 }, 1);
}

static void teardown(void)
{
    apr_pool_destroy(pool);
}

static const char *text_of(const char *id)
{
    const char *text = mcp_seal_id(seal, SCOPE, ALICE, "a", id, pool);

    ck_assert_ptr_nonnull(text);
    return text;
}

static int opens(const mcp_seal_t *by, const char *scope, const char *identity, const char *text)
{
    const char *member = "untouched", *id = "untouched";
    apr_status_t rv = mcp_seal_open(by, scope, identity, text, &member, &id, pool);

    if (rv != APR_SUCCESS) {
        ck_assert_int_eq(rv, APR_NOTFOUND);
        ck_assert_str_eq(member, "untouched");
        ck_assert_str_eq(id, "untouched");
    }
    return rv == APR_SUCCESS;
}

static void check_opens(const mcp_seal_t *by, const char *identity, const char *text,
                        const char *member, const char *id)
{
    const char *of, *opened;

    ck_assert_int_eq(mcp_seal_open(by, SCOPE, identity, text, &of, &opened, pool), APR_SUCCESS);
    ck_assert_str_eq(of, member);
    ck_assert_str_eq(opened, id);
}

typedef struct golden_case_t {
    const char *identity, *member, *id, *text;
} golden_case_t;

static const golden_case_t golden_cases[] = {
    { NULL, "a", UUID,
      "TbL6QBl9TsbBrtOX6mS57lRLGlV6HWFA7uW1P5jt5CIyMiWvzVN4F0-Nu2ys8Rv_J8UkuQ0WclbdPw" },
    { ALICE, "#0123456789abcdef", "x", "TbL6QOyLwD2GU7fugE1EkJvCxmFbP08VJSDL1gXpF0MGOjPsh0Ub" },
};

START_TEST(the_format_does_not_change)
{
    const golden_case_t *c = &golden_cases[_i];

    ck_assert_str_eq(mcp_seal_id(seal, SCOPE, c->identity, c->member, c->id, pool), c->text);
    check_opens(seal, c->identity, c->text, c->member, c->id);
}
END_TEST

START_TEST(what_is_sealed_opens_whatever_its_length)
{
    char id[400];
    int len;

    for (len = 1; len < (int)sizeof(id); len++) {
        const char *text;

        memset(id, 'x', (size_t)len);
        id[len] = '\0';
        text = text_of(id);
        ck_assert_uint_eq(strspn(text, ALPHABET), strlen(text));
        check_opens(seal, ALICE, text, "a", id);
    }
}
END_TEST

START_TEST(usual_ids_stay_short)
{
    char id[257];

    memset(id, 'x', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    ck_assert_uint_lt(strlen(text_of(UUID)), 100);
    ck_assert_uint_lt(strlen(mcp_seal_id(seal, SCOPE, ALICE, "a-long-name-of-a-member", id, pool)),
                      512);
}
END_TEST

START_TEST(very_long_ids_are_sealed_and_endless_ones_not)
{
    char *id = apr_palloc(pool, 100000);

    memset(id, 'x', 100000);
    id[50000] = '\0';
    check_opens(seal, ALICE, text_of(id), "a", id);
    id[50000] = 'x';
    id[99999] = '\0';
    ck_assert_ptr_null(mcp_seal_id(seal, SCOPE, ALICE, "a", id, pool));
    ck_assert_ptr_null(mcp_seal_id(seal, SCOPE, ALICE, "a", "", pool));
    memset(id, 'A', 99999);
    ck_assert(!opens(seal, SCOPE, ALICE, id));
}
END_TEST

START_TEST(the_same_session_has_the_same_text_and_no_other_has)
{
    ck_assert_str_eq(text_of(UUID), text_of(UUID));
    ck_assert_str_eq(text_of(UUID), mcp_seal_id(make_seal((const unsigned char[]){ 0 }, 1), SCOPE,
                                                ALICE, "a", UUID, pool));
    ck_assert_str_ne(text_of(UUID), text_of(UUID "c"));
    ck_assert_str_ne(text_of(UUID), mcp_seal_id(seal, SCOPE, ALICE, "b", UUID, pool));
    /* The name ends where it ends. */
    ck_assert_str_ne(mcp_seal_id(seal, SCOPE, ALICE, "a", "bc", pool),
                     mcp_seal_id(seal, SCOPE, ALICE, "ab", "c", pool));
}
END_TEST

START_TEST(no_other_character_opens_in_any_place)
{
    static const char *const ids[] = { "x", "xy", "xyz", UUID };
    int i;

    for (i = 0; i < 4; i++) {
        char *text = apr_pstrdup(pool, text_of(ids[i])), *at;
        int c;

        for (at = text; *at; at++) {
            char right = *at;

            for (c = 1; c < 256; c++) {
                *at = (char)c;
                ck_assert_int_eq(opens(seal, SCOPE, ALICE, text), *at == right);
            }
            *at = right;
        }
    }
}
END_TEST

START_TEST(nothing_shorter_or_longer_opens)
{
    char *text = apr_pstrdup(pool, text_of(UUID));
    apr_size_t len;

    ck_assert(!opens(seal, SCOPE, ALICE, apr_pstrcat(pool, text, "A", NULL)));
    ck_assert(!opens(seal, SCOPE, ALICE, apr_pstrcat(pool, text, "=", NULL)));
    ck_assert(!opens(seal, SCOPE, ALICE, apr_pstrcat(pool, " ", text, NULL)));
    ck_assert(!opens(seal, SCOPE, ALICE, apr_pstrcat(pool, text, "\n", NULL)));
    ck_assert(!opens(seal, SCOPE, ALICE, apr_pstrcat(pool, text, text, NULL)));
    for (len = strlen(text); len > 0; len--) {
        text[len - 1] = '\0';
        ck_assert(!opens(seal, SCOPE, ALICE, text));
    }
}
END_TEST

START_TEST(it_opens_for_its_scope_and_identity_only)
{
    const char *text = text_of(UUID), *nobodys = mcp_seal_id(seal, SCOPE, NULL, "a", UUID, pool);

    ck_assert(opens(seal, SCOPE, ALICE, text));
    ck_assert(!opens(seal, SCOPE, NULL, text));
    ck_assert(!opens(seal, SCOPE, "", text));
    ck_assert(!opens(seal, SCOPE, ALICE "x", text));
    ck_assert(!opens(seal, SCOPE "x", ALICE, text));
    ck_assert(!opens(seal, "", ALICE, text));
    ck_assert(!opens(seal, SCOPE "u", "ser " ALICE, text));
    ck_assert(opens(seal, SCOPE, NULL, nobodys));
    ck_assert(!opens(seal, SCOPE, ALICE, nobodys));
    ck_assert(!opens(seal, SCOPE, "", nobodys));
    ck_assert(!opens(seal, SCOPE, "nobody", nobodys));
}
END_TEST

START_TEST(all_keys_open_and_the_first_one_seals)
{
    mcp_seal_t *old = seal;
    mcp_seal_t *both = make_seal((const unsigned char[]){ 100, 0 }, 2);
    mcp_seal_t *fresh = make_seal((const unsigned char[]){ 100 }, 1);
    const char *before = text_of(UUID), *after;

    after = mcp_seal_id(both, SCOPE, ALICE, "a", UUID, pool);
    ck_assert_str_ne(before, after);
    ck_assert_str_eq(after, mcp_seal_id(fresh, SCOPE, ALICE, "a", UUID, pool));
    check_opens(both, ALICE, before, "a", UUID);
    check_opens(both, ALICE, after, "a", UUID);
    ck_assert(!opens(fresh, SCOPE, ALICE, before));
    ck_assert(!opens(old, SCOPE, ALICE, after));
}
END_TEST

/* ---- the file of keys ---- */

#define ONE "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define TWO "//////////////////////////////////////////8="

typedef struct file_case_t {
    const char *text;
    int keys;
    const char *error; /* a part of it; NULL: none */
} file_case_t;

static const file_case_t file_cases[] = {
    { ONE, 1, NULL },
    { ONE "\n", 1, NULL },
    { ONE "\n" TWO "\n", 2, NULL },
    { "# a comment\r\n\r\n  " ONE " \t\r\n\n#" TWO "\n" TWO, 2, NULL },
    { "", 0, "no key in it; openssl rand -base64 32" },
    { "\n\n# none\n", 0, "no key in it" },
    { "\n\n" ONE "\nsecret\n", 0, "line 4 is not base64 of 32 bytes" },
    { ONE " # mine\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gIQ==\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd===\n", 0, "line 1 is not" },
    { "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd_h8=\n", 0, "line 1 is not" },
    { "AAEC=wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 0, "line 1 is not" },
};

static const char *write_file(const char *text, int mode)
{
    char *path = apr_pstrdup(pool, "/tmp/mcp-keys-XXXXXX");
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");

    fputs(text, file);
    fclose(file);
    ck_assert_int_eq(chmod(path, (mode_t)mode), 0);
    return path;
}

START_TEST(a_file_is_read_whole_or_not_at_all)
{
    const file_case_t *c = &file_cases[_i];
    const char *path = write_file(c->text, 0600);
    mcp_keys_t *keys = NULL;
    const char *error = mcp_keys_read(path, &keys, pool);

    remove(path);
    if (c->error) {
        ck_assert_ptr_nonnull(error);
        ck_assert_msg(strstr(error, c->error) != NULL, "%s", error);
        ck_assert_ptr_null(strstr(error, "secret"));
        return;
    }
    ck_assert_msg(!error, "%s", error);
    ck_assert_int_eq(keys->count, c->keys);
    ck_assert_int_eq(keys->keys[0][31], 31);
    ck_assert(c->keys < 2 || keys->keys[1][31] == 255);
    mcp_keys_wipe(keys);
    ck_assert_int_eq(keys->keys[0][31], 0);
}
END_TEST

START_TEST(a_file_that_others_can_read_is_refused)
{
    static const int good[] = { 0400, 0600, 0700, 0611 }, bad[] = { 0640, 0604, 0620, 0602, 0644 };
    mcp_keys_t *keys;
    int i;

    for (i = 0; i < 4; i++) {
        const char *path = write_file(ONE, good[i]), *error = mcp_keys_read(path, &keys, pool);

        ck_assert_msg(!error, "%o: %s", (unsigned)good[i], error);
        remove(path);
    }
    for (i = 0; i < 5; i++) {
        const char *path = write_file(ONE, bad[i]), *error = mcp_keys_read(path, &keys, pool);

        ck_assert_msg(error && strstr(error, "chmod 600"), "%o", (unsigned)bad[i]);
        remove(path);
    }
}
END_TEST

START_TEST(what_is_no_file_is_refused)
{
    mcp_keys_t *keys;
    const char *path;

    ck_assert_str_eq(mcp_keys_read("/tmp/mcp-no-such-file", &keys, pool),
                     "No such file or directory");
    ck_assert_str_eq(mcp_keys_read("/tmp", &keys, pool), "it is no regular file");
    path = write_file(apr_psprintf(pool, "%20000d", 1), 0600);
    ck_assert_str_eq(mcp_keys_read(path, &keys, pool), "it is too large for a file of keys");
    remove(path);
}
END_TEST

static TCase *make_case(const char *name)
{
    TCase *tc = tcase_create(name);

    tcase_add_checked_fixture(tc, setup, teardown);
    return tc;
}

int main(void)
{
    Suite *suite = suite_create("mcp_proxy_seal");
    TCase *texts = make_case("texts"), *files = make_case("files");

    tcase_add_loop_test(texts, the_format_does_not_change, 0,
                        (int)(sizeof(golden_cases) / sizeof(*golden_cases)));
    tcase_add_test(texts, what_is_sealed_opens_whatever_its_length);
    tcase_add_test(texts, usual_ids_stay_short);
    tcase_add_test(texts, very_long_ids_are_sealed_and_endless_ones_not);
    tcase_add_test(texts, the_same_session_has_the_same_text_and_no_other_has);
    tcase_add_test(texts, no_other_character_opens_in_any_place);
    tcase_add_test(texts, nothing_shorter_or_longer_opens);
    tcase_add_test(texts, it_opens_for_its_scope_and_identity_only);
    tcase_add_test(texts, all_keys_open_and_the_first_one_seals);
    tcase_add_loop_test(files, a_file_is_read_whole_or_not_at_all, 0,
                        (int)(sizeof(file_cases) / sizeof(*file_cases)));
    tcase_add_test(files, a_file_that_others_can_read_is_refused);
    tcase_add_test(files, what_is_no_file_is_refused);
    suite_add_tcase(suite, texts);
    suite_add_tcase(suite, files);
    return run_suite(suite);
}
