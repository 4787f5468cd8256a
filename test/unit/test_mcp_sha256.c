/* SPDX-License-Identifier: Apache-2.0 */
#include "mcp_sha256.h"

#include <string.h>

#include <apr_pools.h>
#include <check.h>

#include "run_suite.h"

/* Of "abc", as FIPS 180-4's examples have it. */
static const unsigned char abc[MCP_SHA256] = {
    0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
    0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad
};

static int is_right(void)
{
    unsigned char digest[MCP_SHA256];

    mcp_sha256("abc", 3, digest);
    return memcmp(digest, abc, sizeof(abc)) == 0;
}

START_TEST(a_digest_is_right_before_in_and_after_the_life_of_its_preparation)
{
    apr_pool_t *p;
    int i;

    ck_assert(is_right());
    for (i = 0; i < 2; i++) { /* as a restart does */
        apr_pool_create(&p, NULL);
        mcp_sha256_prepare(p);
        mcp_sha256_prepare(p);
        ck_assert(is_right());
        apr_pool_destroy(p);
        ck_assert(is_right());
    }
}
END_TEST

START_TEST(nothing_has_a_digest_too)
{
    unsigned char digest[MCP_SHA256];

    mcp_sha256("", 0, digest);
    ck_assert_int_eq(digest[0], 0xe3);
    ck_assert_int_eq(digest[MCP_SHA256 - 1], 0x55);
}
END_TEST

int main(void)
{
    TCase *digests = tcase_create("digests");
    Suite *suite = suite_create("mcp_sha256");

    tcase_add_test(digests, a_digest_is_right_before_in_and_after_the_life_of_its_preparation);
    tcase_add_test(digests, nothing_has_a_digest_too);
    suite_add_tcase(suite, digests);
    return run_suite(suite);
}
