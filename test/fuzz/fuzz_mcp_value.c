/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any text as a value of a configuration. The readers leave their output alone where they refuse;
 * patterns match as a table of all pairs of positions says they do; escaped text can be undone.
 * The input is a text or, with a line feed in it, a pattern and a text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_lib.h>
#include <apr_pools.h>
#include <apr_strings.h>

#include "mcp_value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef apr_status_t reader_fn(const char *text, apr_int64_t *out);

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static void expect_number(reader_fn *read, const char *text, int may_be_negative)
{
    apr_int64_t value = -4711;
    apr_status_t rv = read(text, &value);

    expect(rv == APR_SUCCESS || rv == APR_EINVAL || rv == APR_ERANGE);
    if (rv != APR_SUCCESS) {
        expect(value == -4711);
        return;
    }
    expect(apr_isdigit(text[0]) || (may_be_negative && text[0] == '-'));
    expect(value >= 0 || may_be_negative);
}

/* Whether a pattern fits a text, slowly: row by row, which starts of the text can be reached. */
static int fits(const char *pattern, const char *text, apr_pool_t *p)
{
    apr_size_t len = strlen(text), i;
    char *reached = apr_pcalloc(p, len + 1);

    reached[0] = 1;
    for (; *pattern; pattern++) {
        for (i = 1; *pattern == '*' && i <= len; i++) {
            reached[i] |= reached[i - 1];
        }
        if (*pattern == '*') {
            continue;
        }
        for (i = len; i > 0; i--) {
            reached[i] = reached[i - 1] && (*pattern == '?' || *pattern == text[i - 1]);
        }
        reached[0] = 0;
    }
    return reached[len];
}

static void expect_escaped(const char *bytes, apr_size_t len, apr_pool_t *p)
{
    const char *at = mcp_value_escape(bytes, len, p);
    apr_size_t i;

    for (i = 0; i < len; i++) {
        if (*at == '%') {
            char code[3] = { at[1], at[2], '\0' };

            expect(strtol(code, NULL, 16) == (unsigned char)bytes[i]);
            at += 3;
            continue;
        }
        expect(apr_isalnum(*at) || (*at && strchr("-._~@+", *at)));
        expect(*at++ == bytes[i]);
    }
    expect(!*at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    apr_pool_t *p;
    char *text, *second;

    if (!is_ready) {
        apr_initialize();
        is_ready = 1;
    }
    apr_pool_create(&p, NULL);
    text = apr_pstrmemdup(p, (const char *)data, size);
    expect_escaped((const char *)data, size, p);
    expect_number(mcp_value_duration, text, 0);
    expect_number(mcp_value_size, text, 0);
    expect_number(mcp_value_count, text, 1);
    second = strchr(text, '\n');
    if (second) {
        *second++ = '\0';
        expect(!mcp_value_matches(text, second) == !fits(text, second, p));
    }
    apr_pool_destroy(p);
    return 0;
}
