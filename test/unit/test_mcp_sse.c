/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event-stream framing: the backward scan against a byte-by-byte model of the same state, ids of
 * events in pieces of every length, and the endpoint event at every length that a reader may see.
 */
#include "mcp_sse.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "run_suite.h"

#define ROUNDS 200000
#define MOST 48

static apr_pool_t *pool;

static void feed_slowly(mcp_sse_t *sse, const char *buf, apr_size_t len)
{
    apr_size_t i;

    for (i = 0; i < len; i++) {
        char c = buf[i];

        if (c == '\n' && sse->after_cr) {
            sse->after_cr = 0;
            continue;
        }
        sse->after_cr = c == '\r';
        if (c == '\n' || c == '\r') {
            if (!sse->in_line) {
                sse->in_event = 0;
            }
            sse->in_line = 0;
            sse->in_comment = 0;
        } else if (!sse->in_line) {
            sse->in_line = 1;
            sse->in_comment = c == ':';
            sse->in_event |= c != ':';
        }
    }
}

/* From few letters, so that each kind of line end, comment and blank line is common. */
static apr_size_t make_stream(char *buf)
{
    static const char letters[] = "\n\n\n\r\r::ad \xef";
    apr_size_t len = (apr_size_t)random() % MOST, i;

    for (i = 0; i < len; i++) {
        buf[i] = letters[random() % (long)(sizeof(letters) - 1)];
    }
    return len;
}

START_TEST(test_feed_agrees_with_a_plain_model_however_the_stream_is_split)
{
    int round;

    srandom(11);
    for (round = 0; round < ROUNDS; round++) {
        mcp_sse_t quick = { 0 }, slow = { 0 };
        char buf[MOST];
        apr_size_t len = make_stream(buf), at = 0;

        while (at < len) {
            apr_size_t piece = 1 + (apr_size_t)random() % (len - at);
            char *copy = malloc(piece);

            memcpy(copy, buf + at, piece);
            mcp_sse_feed(&quick, copy, piece);
            free(copy);
            feed_slowly(&slow, buf + at, piece);
            at += piece;
            ck_assert_msg(!memcmp(&quick, &slow, sizeof(quick)), "round %d at %d", round, (int)at);
        }
    }
}
END_TEST

static mcp_sse_t fed(const char *text)
{
    mcp_sse_t sse = { 0 };

    mcp_sse_feed(&sse, text, strlen(text));
    return sse;
}

static const char *const between[] = {
    "", "\n", "data: x\n\n", "data: x\r\n\r\n", "data: x\r\r", "data: x\r\n\r", "data: x\n\r\n",
    ": hi\n", ": hi\n\n", "data: x\n\n: hi\n", "data: x\n: hi\n\n", "id: 1\n\n\n",
};

static const char *const within[] = {
    "d", "data: x\n", "data: x\r\n", "data: x\r", "data: x\n: hi\n", "data: x\n: hi", ": hi",
    "data: x\n\nd", "data: x\n\n: hi", ":\n\ndata\n:\n:\n", "data: x\n \n", "\xef\xbb\xbf\n",
};

START_TEST(test_comment_may_stand_at_the_start_and_behind_a_blank_line)
{
    mcp_sse_t sse = fed(between[_i]);

    ck_assert_msg(mcp_sse_is_between_events(&sse), "%s", between[_i]);
}
END_TEST

START_TEST(test_comment_may_not_stand_within_a_line_or_an_event)
{
    mcp_sse_t sse = fed(within[_i]);

    ck_assert_msg(!mcp_sse_is_between_events(&sse), "%s", within[_i]);
}
END_TEST

START_TEST(test_feeding_nothing_changes_nothing)
{
    mcp_sse_t sse = fed("data: x\r"), before = sse;

    mcp_sse_feed(&sse, "", 0);
    ck_assert_mem_eq(&sse, &before, sizeof(sse));
}
END_TEST

/* The text with a mark before the value of each id, as it comes out for pieces of this length. */
static const char *mark_ids(const char *text, apr_size_t piece, char *out)
{
    mcp_sse_ids_t ids = { 0 };
    apr_size_t size = strlen(text), at;
    mcp_span_t in, before;
    char *to = out;

    for (at = 0; at < size; at += piece) {
        in = (mcp_span_t){ text + at, piece < size - at ? piece : size - at };
        while (mcp_sse_next_id(&ids, &in, &before)) {
            memcpy(to, before.p, before.len);
            to += before.len;
            *to++ = '<';
        }
        memcpy(to, before.p, before.len);
        to += before.len;
        ck_assert_uint_eq(in.len, 0);
    }
    *to = '\0';
    return out;
}

static const char *const marked[][2] = {
    { "id: 1\ndata: x\n\n", "id:< 1\ndata: x\n\n" },
    { "id:1\rid:2\r\nid:\n", "id:<1\rid:<2\r\nid:<\n" },
    { "event: m\r\nid: 7 id: 8\r\n\r\n", "event: m\r\nid:< 7 id: 8\r\n\r\n" },
    { "id\n id: 1\n:id: 1\niid: 1\nid : 1\nidd: 1\nid\n: 1\n",
      "id\n id: 1\n:id: 1\niid: 1\nid : 1\nidd: 1\nid\n: 1\n" },
    { "data: id: 1\n\nid: 2", "data: id: 1\n\nid:< 2" },
    { "data: {\"id\":1}\nid:", "data: {\"id\":1}\nid:<" },
};

START_TEST(test_ids_of_events_are_found_however_the_stream_is_split)
{
    apr_size_t piece;
    char out[128];

    for (piece = 1; piece <= strlen(marked[_i][0]); piece++) {
        ck_assert_str_eq(mark_ids(marked[_i][0], piece, out), marked[_i][1]);
    }
}
END_TEST

static mcp_sse_first_e first(const char *text, apr_size_t len, mcp_span_t *data)
{
    char *copy = malloc(len ? len : 1);
    mcp_sse_first_e answer;

    memcpy(copy, text, len);
    data->p = NULL;
    answer = mcp_sse_first(copy, len, data);
    if (answer == MCP_SSE_ENDPOINT) {
        ck_assert(data->p >= copy && data->p + data->len <= copy + len);
        data->p = text + (data->p - copy);
    }
    free(copy);
    return answer;
}

typedef struct first_case_t {
    const char *text;
    const char *data; /* NULL: something else */
    int at;           /* how many bytes tell; 0: none of them */
} first_case_t;

#define ALL -1

static const first_case_t first_cases[] = {
    { "event: endpoint\ndata: /message?sessionId=1\n\n", "/message?sessionId=1", ALL },
    { "event: endpoint\r\ndata: /message/1\r\n\r", "/message/1", ALL },
    { "event:endpoint\rdata:/m\r\r", "/m", ALL },
    { "\xef\xbb\xbf" "event: endpoint\ndata: /m\n\n", "/m", ALL },
    { ": hi\n\n:\nevent: endpoint\n: there\ndata: http://h:1/m\n\n", "http://h:1/m", ALL },
    { "event: endpoint\nunknown\ndata:  /m \n\n", " /m ", ALL },
    { "data: /m\nevent: endpoint\n\n", NULL, 1 },
    { "retry: 10\n\nevent: endpoint\ndata: /m\n\n", NULL, 1 },
    { "every: endpoint\n", NULL, 4 },
    { "\xef\xbbx", NULL, 3 },
    { "event: endpoint\n\nevent: endpoint\ndata: m\n\n", "m", ALL },
    { "event: message\ndata: {}\n\n", NULL, 8 },
    { "event: endpoints\n", NULL, 16 },
    { "event: endpoint \n", NULL, 16 },
    { "event:  endpoint\n", NULL, 8 },
    { "event: end\n", NULL, 11 },
    { "event\n", NULL, 6 },
    { "data: {\"jsonrpc\"", NULL, 1 },
    { "event: endpoint\ndata: {", NULL, 23 },
    { "event: endpoint\ndata:\n", NULL, 22 },
    { "event: endpoint\ndata:   \t{", NULL, 26 },
    { "event: endpoint\n\ndata: /m\n\n", NULL, 18 },
    { "event: endpoint\ndata: /m\ndata: /n\n\n", NULL, 30 },
    { "event: endpoint\ndata: /m\ndata\n", NULL, 30 },
    { "", NULL, 0 },
    { "\xef\xbb", NULL, 0 },
    { "\xef\xbb\xbf", NULL, 0 },
    { ": only a comment\n\n", NULL, 0 },
    { "event: endpoint\ndata: /m\n", NULL, 0 },
    { "eve", NULL, 0 },
};

START_TEST(test_endpoint_event_is_told_by_the_first_byte_that_shows_it)
{
    const first_case_t *c = &first_cases[_i];
    apr_size_t size = strlen(c->text), at = c->at == ALL ? size : (apr_size_t)c->at, len;
    mcp_span_t data;

    for (len = 0; len <= size; len++) {
        mcp_sse_first_e answer = first(c->text, len, &data);

        if (len < at || !c->at) {
            ck_assert_msg(answer == MCP_SSE_MORE, "%s at %d", c->text, (int)len);
        } else if (!c->data) {
            ck_assert_msg(answer == MCP_SSE_OTHER, "%s at %d", c->text, (int)len);
        } else {
            ck_assert_msg(answer == MCP_SSE_ENDPOINT, "%s at %d", c->text, (int)len);
            ck_assert_uint_eq(data.len, strlen(c->data));
            ck_assert_mem_eq(data.p, c->data, data.len);
        }
    }
}
END_TEST

START_TEST(test_what_was_told_stays_so_whatever_follows)
{
    static const char *const parts[] = {
        "event: endpoint", "data: /m", "data:", ":", "\n", "\r", "\n\n", "\r\n", "id: 1", "{",
        "event", "\xef\xbb\xbf", " ",
    };
    int round;

    srandom(13);
    for (round = 0; round < ROUNDS / 20; round++) {
        char text[256] = "";
        mcp_sse_first_e told = MCP_SSE_MORE, answer;
        mcp_span_t data;
        apr_size_t len;
        int i;

        for (i = 0; i < 12; i++) {
            strcat(text, parts[random() % (long)(sizeof(parts) / sizeof(parts[0]))]);
        }
        for (len = 0; len <= strlen(text); len++) {
            answer = first(text, len, &data);
            ck_assert_msg(told == MCP_SSE_MORE || answer == told, "%s at %d", text, (int)len);
            told = answer;
        }
    }
}
END_TEST

START_TEST(test_endpoint_event_that_does_not_come_is_given_up)
{
    static char text[MCP_SSE_MAX_FIRST];
    mcp_span_t data;

    memset(text, 'x', sizeof(text));
    memcpy(text, "event: endpoint\ndata: ", 22);
    ck_assert_int_eq(mcp_sse_first(text, sizeof(text) - 1, &data), MCP_SSE_MORE);
    ck_assert_int_eq(mcp_sse_first(text, sizeof(text), &data), MCP_SSE_OTHER);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static TCase *feed_case(void)
{
    TCase *tc = tcase_create("feed");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_feed_agrees_with_a_plain_model_however_the_stream_is_split);
    tcase_add_loop_test(tc, test_comment_may_stand_at_the_start_and_behind_a_blank_line, 0,
                        COUNT(between));
    tcase_add_loop_test(tc, test_comment_may_not_stand_within_a_line_or_an_event, 0,
                        COUNT(within));
    tcase_add_test(tc, test_feeding_nothing_changes_nothing);
    return tc;
}

static TCase *ids_case(void)
{
    TCase *tc = tcase_create("ids");

    tcase_add_loop_test(tc, test_ids_of_events_are_found_however_the_stream_is_split, 0,
                        COUNT(marked));
    return tc;
}

typedef struct taken_t {
    const char *bytes;
    const char *data; /* NULL: not whole */
    apr_size_t used;
} taken_t;

static const taken_t taken[] = {
    { "data: a\n\nrest", "a", 9 },
    { "id: 4\r\ndata:a\r\n: x\r\ndata: b\r\n\r\n", "a\nb", 31 },
    { "data\rdata:\rdata:\rdata: c\r\r", "\n\nc", 26 },
    { "data:\ndata:\n\n", "\n", 13 },
    { "data:\n\n", "", 7 },
    { "id: 1\n\n", "", 7 },
    { "\ndata: a\n\n", "", 1 },
    { "data: a\n", NULL, 0 },
    { "data: a\r\n", NULL, 0 },
    { "", NULL, 0 },
};

START_TEST(test_an_event_that_is_whole_is_taken)
{
    const taken_t *c = &taken[_i];
    mcp_span_t in = { c->bytes, strlen(c->bytes) }, data;
    apr_status_t rv = mcp_sse_take(&in, pool, &data);

    ck_assert_int_eq(rv, c->data ? APR_SUCCESS : APR_INCOMPLETE);
    ck_assert_uint_eq(in.p - c->bytes, c->used);
    ck_assert_uint_eq(in.len, strlen(c->bytes) - c->used);
    if (c->data) {
        ck_assert_uint_eq(data.len, strlen(c->data));
        ck_assert_mem_eq(data.p ? data.p : "", c->data, data.len);
    }
}
END_TEST

/* Joined line by line, they were copied again for each: gigabytes for a quarter of a megabyte. */
START_TEST(test_an_event_of_many_lines_takes_the_room_of_its_bytes)
{
    static const char line[] = "data:\n";
    const apr_size_t lines = 40000, width = sizeof(line) - 1;
    char *text = apr_palloc(pool, lines * width + 1);
    mcp_span_t in = { text, lines * width + 1 }, data;
    struct rusage before, after;
    apr_size_t i;

    for (i = 0; i < lines; i++) {
        memcpy(text + i * width, line, width);
    }
    text[lines * width] = '\n';
    getrusage(RUSAGE_SELF, &before);
    ck_assert_int_eq(mcp_sse_take(&in, pool, &data), APR_SUCCESS);
    getrusage(RUSAGE_SELF, &after);
    ck_assert_uint_eq(data.len, lines - 1);
    ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, 256 * 1024);
}
END_TEST

/* All texts of seven of these, in two pieces. */
START_TEST(test_where_no_blank_line_has_come_no_event_has)
{
    static const char alphabet[] = "\n\rdx";
    char text[7];
    apr_size_t from, len, i;
    unsigned n;

    for (n = 0; n < 1u << (2 * sizeof(text)); n++) {
        for (i = 0; i < sizeof(text); i++) {
            text[i] = alphabet[n >> (2 * i) & 3];
        }
        for (from = 1; from < sizeof(text); from++) {
            mcp_span_t first = { text, from }, all, data;

            while (mcp_sse_take(&first, pool, &data) == APR_SUCCESS) {
            }
            for (len = from + 1; len <= sizeof(text); len++) {
                all = (mcp_span_t){ first.p, (apr_size_t)(text + len - first.p) };
                ck_assert(mcp_sse_has_end(text, from, len)
                          || mcp_sse_take(&all, pool, &data) != APR_SUCCESS
                          || (text[from - 1] == '\r' && text[from] == '\n'));
            }
        }
    }
    ck_assert(!mcp_sse_has_end("data: a\r\n", 0, 9) && !mcp_sse_has_end("\n\nx", 2, 3));
}
END_TEST

static void make_pool(void)
{
    apr_pool_create(&pool, NULL);
}

static void drop_pool(void)
{
    apr_pool_destroy(pool);
}

static TCase *take_case(void)
{
    TCase *tc = tcase_create("take");

    tcase_add_checked_fixture(tc, make_pool, drop_pool);
    tcase_add_loop_test(tc, test_an_event_that_is_whole_is_taken, 0, COUNT(taken));
    tcase_add_test(tc, test_an_event_of_many_lines_takes_the_room_of_its_bytes);
    tcase_add_test(tc, test_where_no_blank_line_has_come_no_event_has);
    return tc;
}

static TCase *first_case(void)
{
    TCase *tc = tcase_create("first");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_endpoint_event_is_told_by_the_first_byte_that_shows_it, 0,
                        COUNT(first_cases));
    tcase_add_test(tc, test_what_was_told_stays_so_whatever_follows);
    tcase_add_test(tc, test_endpoint_event_that_does_not_come_is_given_up);
    return tc;
}

int main(void)
{
    Suite *suite = suite_create("mcp_sse");

    suite_add_tcase(suite, feed_case());
    suite_add_tcase(suite, ids_case());
    suite_add_tcase(suite, first_case());
    suite_add_tcase(suite, take_case());
    return run_suite(suite);
}
