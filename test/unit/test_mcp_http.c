/* SPDX-License-Identifier: Apache-2.0 */
/* Response heads and body framing, each also at every place where the bytes may be split. */
#include "mcp_http.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "run_suite.h"

static apr_pool_t *pool;

static void open_pool(void)
{
    apr_initialize();
    apr_pool_create(&pool, NULL);
}

static void close_pool(void)
{
    apr_pool_destroy(pool);
    apr_terminate();
}

static apr_status_t parse(mcp_http_head_t *head, const char *text, apr_size_t *used)
{
    *used = 0;
    return mcp_http_parse_head(head, apr_pstrdup(pool, text), strlen(text), used, pool);
}

static mcp_http_head_t good(const char *text)
{
    mcp_http_head_t head;
    apr_size_t used;

    ck_assert_msg(parse(&head, text, &used) == APR_SUCCESS, "%s: %s", text, head.error);
    ck_assert_uint_eq(used, strlen(text));
    ck_assert_ptr_null(head.error);
    return head;
}

START_TEST(test_head_gives_status_reason_and_fields_in_order)
{
    mcp_http_head_t head = good("HTTP/1.1 404 Not Found\r\nA: 1\r\nset-cookie:\t x y \t\r\n"
                                "Set-Cookie: z\r\nEmpty:\r\n\r\n");
    const mcp_http_field_t *fields = (const mcp_http_field_t *)head.fields->elts;

    ck_assert_int_eq(head.minor, 1);
    ck_assert_int_eq(head.status, 404);
    ck_assert_str_eq(head.reason, "Not Found");
    ck_assert_int_eq(head.fields->nelts, 4);
    ck_assert_str_eq(fields[1].name, "set-cookie");
    ck_assert_str_eq(fields[1].value, "x y");
    ck_assert_str_eq(fields[2].value, "z");
    ck_assert_str_eq(mcp_http_field(&head, "SET-COOKIE"), "x y");
    ck_assert_str_eq(mcp_http_field(&head, "empty"), "");
    ck_assert_ptr_null(mcp_http_field(&head, "Absent"));
}
END_TEST

START_TEST(test_head_is_taken_with_what_real_servers_leave_out)
{
    mcp_http_head_t head = good("HTTP/1.0 200\n\n");

    ck_assert_int_eq(head.minor, 0);
    ck_assert_str_eq(head.reason, "");
    ck_assert_int_eq(head.fields->nelts, 0);
    ck_assert_str_eq(good("HTTP/1.1 200 \r\n\r\n").reason, "");
    ck_assert_str_eq(good("HTTP/1.1 200 OK\nA: b\n\r\n").reason, "OK");
    ck_assert_int_eq(good("HTTP/1.1 999 \r\n\r\n").status, 999);
    head = good("HTTP/1.1 200 \xc3\xa4\r\nA: \xff\tb\r\n\r\n");
    ck_assert_str_eq(mcp_http_field(&head, "a"), "\xff\tb");
}
END_TEST

static const char *const bad_heads[] = {
    "HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.1  200 OK\r\n\r\n",
    "HTTP/1.x 200 OK\r\n\r\n",
    "HTTP/1.11 200 OK\r\n\r\n",
    "HTTP/1.1\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "HTTP/1.1 2000 OK\r\n\r\n",
    "HTTP/1.1 099 OK\r\n\r\n",
    "HTTP/1.1 2x0 OK\r\n\r\n",
    "HTTP/1.1 200OK\r\n\r\n",
    "HTTP/1.1 200\tOK\r\n\r\n",
    "HTTP/1.1 200 O\rK\r\n\r\n",
    "HTTP/1.1 200 O\x01K\r\n\r\n",
    "http/1.1 200 OK\r\n\r\n",
    " HTTP/1.1 200 OK\r\n\r\n",
    "\r\nHTTP/1.1 200 OK\r\n\r\n",
    "{\"jsonrpc\":\"2.0\"}",
    "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA\t: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "HTTP/1.1 200 OK\r\nnocolon\r\n\r\n",
    "HTTP/1.1 200 OK\nnocolon\nA: b\n\n",
    "HTTP/1.1 200 OK\r\nA(: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\xc3\xa4: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\r\n\tc: d\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\rc: d\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\x1f\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n",
};

START_TEST(test_bad_head_is_refused_with_a_reason)
{
    mcp_http_head_t head;
    apr_size_t used;

    ck_assert_msg(parse(&head, bad_heads[_i], &used) == APR_EGENERAL, "%s", bad_heads[_i]);
    ck_assert_ptr_nonnull(head.error);
}
END_TEST

START_TEST(test_nul_anywhere_in_a_head_is_refused)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nAb: cd\r\n\r\n";
    apr_size_t i, used;

    /* In the last three bytes it takes the end of the head away. */
    for (i = 0; i < sizeof(text) - 4; i++) {
        char *buf = apr_pmemdup(pool, text, sizeof(text) - 1);
        mcp_http_head_t head;

        buf[i] = '\0';
        ck_assert_msg(mcp_http_parse_head(&head, buf, sizeof(text) - 1, &used, pool)
                      == APR_EGENERAL, "at %d", (int)i);
    }
}
END_TEST

START_TEST(test_head_needs_all_its_bytes_and_takes_no_more)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n";
    const apr_size_t size = sizeof(text) - 1;
    char *whole = apr_pstrcat(pool, text, "body\n\n", NULL);
    mcp_http_head_t head;
    apr_size_t len, used = 0;

    for (len = 0; len < size; len++) {
        ck_assert_int_eq(mcp_http_parse_head(&head, whole, len, &used, pool), APR_INCOMPLETE);
    }
    ck_assert_uint_eq(used, 0);
    ck_assert_str_eq(whole + size, "body\n\n");
    ck_assert_mem_eq(whole, text, size);
    ck_assert_int_eq(mcp_http_parse_head(&head, whole, size + 6, &used, pool), APR_SUCCESS);
    ck_assert_uint_eq(used, size);
    ck_assert_str_eq(whole + size, "body\n\n");
}
END_TEST

START_TEST(test_something_that_is_no_http_is_told_at_its_first_byte)
{
    mcp_http_head_t head;
    apr_size_t used;

    ck_assert_int_eq(parse(&head, "S", &used), APR_EGENERAL);
    ck_assert_int_eq(parse(&head, "HTTP/2", &used), APR_EGENERAL);
    ck_assert_int_eq(parse(&head, "", &used), APR_INCOMPLETE);
    ck_assert_ptr_null(mcp_http_field(&head, "A"));
}
END_TEST

static char *head_with_fields(int count)
{
    char *text = apr_pstrdup(pool, "HTTP/1.1 200 OK\r\n");
    int i;

    for (i = 0; i < count; i++) {
        text = apr_pstrcat(pool, text, "A: b\r\n", NULL);
    }
    return apr_pstrcat(pool, text, "\r\n", NULL);
}

START_TEST(test_head_has_at_most_200_fields)
{
    mcp_http_head_t head = good(head_with_fields(200));
    apr_size_t used;

    ck_assert_int_eq(head.fields->nelts, 200);
    ck_assert_int_eq(parse(&head, head_with_fields(201), &used), APR_EGENERAL);
}
END_TEST

/* A head of exactly @a size bytes, and more behind it. */
static char *head_of_size(apr_size_t size)
{
    static const char start[] = "HTTP/1.1 200 OK\r\nA: ";
    char *text = apr_palloc(pool, size + 100);

    memset(text, 'x', size + 100);
    memcpy(text, start, sizeof(start) - 1);
    memcpy(text + size - 4, "\r\n\r\n", 4);
    return text;
}

START_TEST(test_head_has_at_most_64_kib)
{
    mcp_http_head_t head;
    apr_size_t used;
    const apr_size_t max = MCP_HTTP_MAX_HEAD;

    ck_assert_int_eq(mcp_http_parse_head(&head, head_of_size(max), max, &used, pool),
                     APR_SUCCESS);
    ck_assert_uint_eq(used, max);
    ck_assert_int_eq(mcp_http_parse_head(&head, head_of_size(max + 1), max - 1, &used, pool),
                     APR_INCOMPLETE);
    ck_assert_int_eq(mcp_http_parse_head(&head, head_of_size(max + 1), max, &used, pool),
                     APR_EGENERAL);
    ck_assert_int_eq(mcp_http_parse_head(&head, head_of_size(max + 1), max + 50, &used, pool),
                     APR_EGENERAL);
    ck_assert_int_eq(mcp_http_parse_head(&head, head_of_size(max), max + 50, &used, pool),
                     APR_SUCCESS);
}
END_TEST

typedef struct framing_case_t {
    const char *status;
    const char *fields;
    int is_head;
    apr_status_t rv;
    mcp_http_body_e kind;
    apr_uint64_t left;
    int done;
} framing_case_t;

static const framing_case_t framing_cases[] = {
    { "1.1 200", "", 0, APR_SUCCESS, MCP_HTTP_BODY_CLOSE, 0, 0 },
    { "1.1 200", "Content-Length: 17\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_LENGTH, 17, 0 },
    { "1.1 200", "content-length: 0\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_LENGTH, 0, 1 },
    { "1.1 200", "Content-Length: 007\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_LENGTH, 7, 0 },
    { "1.1 200", "Content-Length: 5, 5\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_LENGTH, 5, 0 },
    { "1.1 200", "Content-Length: 5 ,5\r\nContent-Length: 5\r\n", 0, APR_SUCCESS,
      MCP_HTTP_BODY_LENGTH, 5, 0 },
    { "1.1 200", "Content-Length: 9223372036854775807\r\n", 0, APR_SUCCESS,
      MCP_HTTP_BODY_LENGTH, 9223372036854775807u, 0 },
    { "1.1 200", "Transfer-Encoding: Chunked\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_CHUNKED, 0, 0 },
    { "1.1 200", "Content-Length: 17\r\n", 1, APR_SUCCESS, MCP_HTTP_BODY_NONE, 17, 1 },
    { "1.1 200", "Transfer-Encoding: chunked\r\n", 1, APR_SUCCESS, MCP_HTTP_BODY_NONE, 0, 1 },
    { "1.1 200", "", 1, APR_SUCCESS, MCP_HTTP_BODY_NONE, 0, 1 },
    { "1.1 204", "Content-Length: 17\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_NONE, 0, 1 },
    { "1.1 304", "Content-Length: 17\r\n", 0, APR_SUCCESS, MCP_HTTP_BODY_NONE, 0, 1 },
    { "1.1 100", "", 0, APR_SUCCESS, MCP_HTTP_BODY_NONE, 0, 1 },
    { "1.1 202", "", 0, APR_SUCCESS, MCP_HTTP_BODY_CLOSE, 0, 0 },
    { "1.1 200", "Content-Length: 9223372036854775808\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 18446744073709551621\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5, 6\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5\r\nContent-Length: 6\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5\r\nContent-Length: 6\r\n", 1, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: x\r\n", 1, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 1, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5,\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: ,5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length:\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: -5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: +5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5 5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 0x5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding: gzip, chunked\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding: chunked, chunked\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding: identity\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding:\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n", 0,
      APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.1 200", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 0, APR_EGENERAL, 0, 0, 0 },
    { "1.0 200", "Transfer-Encoding: chunked\r\n", 0, APR_EGENERAL, 0, 0, 0 },
};

START_TEST(test_head_decides_how_the_body_ends)
{
    const framing_case_t *c = &framing_cases[_i];
    mcp_http_head_t head = good(apr_pstrcat(pool, "HTTP/", c->status, " x\r\n", c->fields,
                                            "\r\n", NULL));
    mcp_http_body_t body;

    ck_assert_int_eq(mcp_http_body_init(&body, &head, c->is_head), c->rv);
    if (c->rv != APR_SUCCESS) {
        ck_assert_ptr_nonnull(body.error);
        return;
    }
    ck_assert_int_eq(body.kind, c->kind);
    ck_assert_uint_eq(body.left, c->left);
    ck_assert_int_eq(body.done, c->done);
}
END_TEST

typedef struct collected_t {
    apr_status_t rv;
    int done;
    apr_size_t used;
    char payload[512];
} collected_t;

/* Hand one piece over, as a caller does; each output must lie within it. */
static apr_status_t feed(mcp_http_body_t *body, const char *from, apr_size_t len,
                         collected_t *to)
{
    mcp_span_t in = { from, len }, out;

    while (in.len && !body->done) {
        const char *before = in.p;
        apr_status_t rv = mcp_http_body_next(body, &in, &out);

        if (rv != APR_SUCCESS) {
            return rv;
        }
        ck_assert(in.p > before && out.p >= before && out.p + out.len <= in.p);
        strncat(to->payload, out.p, out.len);
    }
    to->used += len - in.len;
    return APR_SUCCESS;
}

/* The whole text, split before each of two places. */
static collected_t collect(const char *fields, const char *text, apr_size_t a, apr_size_t b)
{
    mcp_http_head_t head = good(apr_pstrcat(pool, "HTTP/1.1 200 OK\r\n", fields, "\r\n", NULL));
    const apr_size_t len = strlen(text);
    const apr_size_t cuts[] = { 0, a, b, len };
    collected_t to = { 0 };
    mcp_http_body_t body;
    int i;

    ck_assert_int_eq(mcp_http_body_init(&body, &head, 0), APR_SUCCESS);
    for (i = 0; i < 3 && to.rv == APR_SUCCESS; i++) {
        /* A copy of each piece, so that reading past it is seen. */
        apr_size_t size = cuts[i + 1] - cuts[i];
        char *piece = malloc(size ? size : 1);

        memcpy(piece, text + cuts[i], size);
        to.rv = feed(&body, piece, size, &to);
        free(piece);
    }
    to.done = body.done;
    ck_assert_int_eq(to.rv != APR_SUCCESS, body.error != NULL);
    return to;
}

typedef struct body_case_t {
    const char *fields, *text, *payload, *left_over;
    int done;
} body_case_t;

#define CHUNKED "Transfer-Encoding: chunked\r\n"

static const body_case_t good_bodies[] = {
    { "Content-Length: 5\r\n", "helloHTTP", "hello", "HTTP", 1 },
    { "Content-Length: 9\r\n", "hello", "hello", "", 0 },
    { "", "hello\r\n\r\n", "hello\r\n\r\n", "", 0 },
    { CHUNKED, "5\r\nhello\r\n0\r\n\r\nHTTP", "hello", "HTTP", 1 },
    { CHUNKED, "1\na\n01\nb\n00\n\n\n", "ab", "\n", 1 },
    { CHUNKED, "A\r\n0123456789\r\n00b\r\n\r\n0\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
      "0123456789\r\n0\r\n\r\n\r\n\r\n", "", 1 },
    { CHUNKED, "1 \t;a=\"b\";c\r\nx\r\n0;y\r\nTrailer: z\r\nMore\r\n\r\n;", "x", ";", 1 },
    { CHUNKED, "0\r\nA: b\n\nX", "", "X", 1 },
    { CHUNKED, "3\r\nab", "ab", "", 0 },
    { CHUNKED, "2\r\nab\r\n0\r\n", "ab", "", 0 },
};

START_TEST(test_body_is_the_same_wherever_the_input_is_split)
{
    const body_case_t *c = &good_bodies[_i];
    apr_size_t len = strlen(c->text), a, b;

    for (a = 0; a <= len; a++) {
        for (b = a; b <= len; b++) {
            collected_t got = collect(c->fields, c->text, a, b);

            ck_assert_int_eq(got.rv, APR_SUCCESS);
            ck_assert_str_eq(got.payload, c->payload);
            ck_assert_str_eq(c->text + got.used, c->left_over);
            ck_assert_int_eq(got.done, c->done);
        }
    }
}
END_TEST

static const char *const bad_chunks[] = {
    "\r\n",
    " 5\r\nhello\r\n",
    "-5\r\nhello\r\n",
    "0x5\r\nhello\r\n",
    "g\r\n",
    ";a\r\n",
    "5\rhello\r\n",
    "5 5\r\nhello\r\n",
    "5\r\r\nhello\r\n",
    "5;a\rb\r\nhello\r\n",
    "5;a\x01\r\nhello\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhello\r\r\n0\r\n\r\n",
    "5\r\nhello\r\n\r\n0\r\n\r\n",
    "8000000000000000\r\nx",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "0\r\n\rx",
    "0\r\nA: b\rC: d\r\n\r\n",
    "0\r\nA: \x01\r\n\r\n",
};

START_TEST(test_broken_chunking_is_an_error_wherever_the_input_is_split)
{
    const char *text = bad_chunks[_i];
    apr_size_t len = strlen(text), a;

    for (a = 0; a <= len; a++) {
        ck_assert_msg(collect(CHUNKED, text, a, len).rv == APR_EGENERAL, "%s", text);
    }
}
END_TEST

START_TEST(test_broken_body_stays_broken)
{
    mcp_http_head_t head = good("HTTP/1.1 200 OK\r\n" CHUNKED "\r\n");
    mcp_http_body_t body;
    collected_t to = { 0 };

    mcp_http_body_init(&body, &head, 0);
    ck_assert_int_eq(feed(&body, "x", 1, &to), APR_EGENERAL);
    ck_assert_int_eq(feed(&body, "0\r\n\r\n", 5, &to), APR_EGENERAL);
    ck_assert_int_eq(body.done, 0);
}
END_TEST

/* @a before, @a count bytes of 'a', @a after */
static apr_status_t feed_long(const char *before, int count, const char *after)
{
    mcp_http_head_t head = good("HTTP/1.1 200 OK\r\n" CHUNKED "\r\n");
    mcp_http_body_t body;
    collected_t to = { 0 };
    apr_status_t rv;

    mcp_http_body_init(&body, &head, 0);
    rv = feed(&body, before, strlen(before), &to);
    while (rv == APR_SUCCESS && count--) {
        rv = feed(&body, "a", 1, &to);
    }
    return rv == APR_SUCCESS ? feed(&body, after, strlen(after), &to) : rv;
}

START_TEST(test_chunk_extension_and_trailers_are_bounded)
{
    ck_assert_int_eq(feed_long("1;", 4096 - 4, "\r\nx\r\n0\r\n\r\n"), APR_SUCCESS);
    ck_assert_int_eq(feed_long("1;", 4096 - 3, "\r\nx\r\n0\r\n\r\n"), APR_EGENERAL);
    ck_assert_int_eq(feed_long("0\r\n", 16384 - 4, "\r\n\r\n"), APR_SUCCESS);
    ck_assert_int_eq(feed_long("0\r\n", 16384 - 3, "\r\n\r\n"), APR_EGENERAL);
    ck_assert_int_eq(feed_long("0\r\na: b\r\n", 16384 - 9, "\r\n\r\n"), APR_EGENERAL);
}
END_TEST

START_TEST(test_empty_body_takes_nothing)
{
    mcp_http_head_t head = good("HTTP/1.1 204 No Content\r\n\r\n");
    mcp_span_t in = { "HTTP", 4 }, out;
    mcp_http_body_t body;

    mcp_http_body_init(&body, &head, 0);
    ck_assert_int_eq(mcp_http_body_next(&body, &in, &out), APR_SUCCESS);
    ck_assert_uint_eq(in.len, 4);
    ck_assert_uint_eq(out.len, 0);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static TCase *head_case(void)
{
    TCase *tc = tcase_create("head");

    tcase_add_checked_fixture(tc, open_pool, close_pool);
    tcase_add_test(tc, test_head_gives_status_reason_and_fields_in_order);
    tcase_add_test(tc, test_head_is_taken_with_what_real_servers_leave_out);
    tcase_add_loop_test(tc, test_bad_head_is_refused_with_a_reason, 0, COUNT(bad_heads));
    tcase_add_test(tc, test_nul_anywhere_in_a_head_is_refused);
    tcase_add_test(tc, test_head_needs_all_its_bytes_and_takes_no_more);
    tcase_add_test(tc, test_something_that_is_no_http_is_told_at_its_first_byte);
    tcase_add_test(tc, test_head_has_at_most_200_fields);
    tcase_add_test(tc, test_head_has_at_most_64_kib);
    return tc;
}

static TCase *body_case(void)
{
    TCase *tc = tcase_create("body");

    tcase_add_checked_fixture(tc, open_pool, close_pool);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_head_decides_how_the_body_ends, 0, COUNT(framing_cases));
    tcase_add_loop_test(tc, test_body_is_the_same_wherever_the_input_is_split, 0,
                        COUNT(good_bodies));
    tcase_add_loop_test(tc, test_broken_chunking_is_an_error_wherever_the_input_is_split, 0,
                        COUNT(bad_chunks));
    tcase_add_test(tc, test_broken_body_stays_broken);
    tcase_add_test(tc, test_chunk_extension_and_trailers_are_bounded);
    tcase_add_test(tc, test_empty_body_takes_nothing);
    return tc;
}

int main(void)
{
    Suite *suite = suite_create("mcp_http");

    suite_add_tcase(suite, head_case());
    suite_add_tcase(suite, body_case());
    return run_suite(suite);
}
