/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a response, to a request that was a HEAD if their number is a multiple of 8. What
 * the head gives out lies in it and is clean, its last byte is needed, and the body is the same in
 * one piece as byte by byte.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>

#include "mcp_http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct response_t {
    const char *p;
    size_t size;
    apr_pool_t *pool;
} response_t;

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static void expect_text(const char *buf, size_t size, const char *text)
{
    const char *c;

    expect(text >= buf && text + strlen(text) < buf + size);
    for (c = text; *c; c++) {
        expect(*c == '\t' || ((unsigned char)*c >= ' ' && *c != 0x7f));
    }
}

static void expect_head(const mcp_http_head_t *head, const char *buf, size_t used)
{
    const mcp_http_field_t *fields = (const mcp_http_field_t *)head->fields->elts;
    int i;

    expect(head->status >= 100 && head->status <= 999 && !head->error);
    expect(head->minor >= 0 && head->minor <= 9 && head->fields->nelts <= 200);
    expect_text(buf, used, head->reason);
    for (i = 0; i < head->fields->nelts; i++) {
        expect_text(buf, used, fields[i].name);
        expect_text(buf, used, fields[i].value);
        expect(*fields[i].name && !strpbrk(fields[i].name, " \t:"));
        expect(mcp_http_field(head, fields[i].name) != NULL);
    }
}

/* Appends the payload to @a payload; returns how much of @a in is left. */
static size_t read_body(mcp_http_body_t *body, mcp_span_t in, size_t piece, mcp_span_t *payload)
{
    size_t left = in.len;
    mcp_span_t part = { in.p, 0 }, out;

    while (!body->done && !body->error && left) {
        part.len = piece < left ? piece : left;
        left -= part.len;
        while (part.len && !body->done && mcp_http_body_next(body, &part, &out) == APR_SUCCESS) {
            expect(out.p >= in.p && out.p + out.len <= part.p && part.p <= in.p + in.len);
            memmove((char *)payload->p + payload->len, out.p, out.len);
            payload->len += out.len;
        }
        left += part.len;
    }
    return left;
}

static void expect_body(const response_t *response, const mcp_http_head_t *head, mcp_span_t rest)
{
    mcp_http_body_t one, other;
    mcp_span_t whole = { apr_palloc(response->pool, rest.len + 1), 0 };
    mcp_span_t parts = { apr_palloc(response->pool, rest.len + 1), 0 };
    size_t left, left_of_parts;

    if (mcp_http_body_init(&one, head, response->size % 8 == 0) != APR_SUCCESS) {
        expect(one.error != NULL);
        return;
    }
    other = one;
    left = read_body(&one, rest, rest.len, &whole);
    left_of_parts = read_body(&other, rest, 1, &parts);
    expect(left == left_of_parts && one.done == other.done && one.error == other.error);
    expect(one.left == other.left && one.state == other.state);
    expect(whole.len == parts.len && !memcmp(whole.p, parts.p, whole.len));
    expect(one.done || one.error || !left);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int is_ready;
    response_t response = { (const char *)data, size, NULL };
    mcp_http_head_t head;
    apr_size_t used = 0;
    apr_status_t rv;
    char *buf;

    if (!is_ready) {
        apr_initialize();
        is_ready = 1;
    }
    apr_pool_create(&response.pool, NULL);
    buf = malloc(size ? size : 1);
    memcpy(buf, data, size);
    rv = mcp_http_parse_head(&head, buf, size, &used, response.pool);
    if (rv == APR_SUCCESS) {
        expect(used && used <= size);
        expect_head(&head, buf, used);
        expect_body(&response, &head, (mcp_span_t){ buf + used, size - used });
        memcpy(buf, data, size);
        rv = mcp_http_parse_head(&head, buf, used - 1, &used, response.pool);
        expect(rv == APR_INCOMPLETE && !memcmp(buf, data, size));
    } else {
        expect(rv == APR_INCOMPLETE ? !memcmp(buf, data, size) : head.error != NULL);
    }
    free(buf);
    apr_pool_destroy(response.pool);
    return 0;
}
