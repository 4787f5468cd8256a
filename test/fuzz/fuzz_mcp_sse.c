/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as an event stream. The scan from behind must come to the same state in one piece as
 * byte by byte, ids of events must be found at the same places, and what is once told of the first
 * event must not change with what follows.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_sse.h"

/* Each length is asked about, so that the work is quadratic. */
#define FIRST_BYTES 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int holds)
{
    if (!holds) {
        abort();
    }
}

static void expect_same_state(const char *buf, size_t size, size_t piece)
{
    mcp_sse_t whole = { 0 }, parts = { 0 };
    size_t at, len;

    for (at = 0; at < size; at += len) {
        len = piece < size - at ? piece : size - at;
        mcp_sse_feed(&parts, buf + at, len);
    }
    mcp_sse_feed(&whole, buf, size);
    expect(!memcmp(&whole, &parts, sizeof(whole)));
    expect(!size || !mcp_sse_is_between_events(&whole) || buf[size - 1] == '\n'
           || buf[size - 1] == '\r');
}

/* Ids are found at the same places, and no byte is left out. */
static void expect_same_ids(const char *buf, size_t size, size_t piece)
{
    mcp_sse_ids_t whole = { 0 }, parts = { 0 };
    mcp_span_t rest = { buf, size }, in, before;
    size_t at, len;

    for (at = 0; at < size; at += len) {
        len = piece < size - at ? piece : size - at;
        in = (mcp_span_t){ buf + at, len };
        while (mcp_sse_next_id(&parts, &in, &before)) {
            const char *here = before.p + before.len;

            expect(mcp_sse_next_id(&whole, &rest, &before) && before.p + before.len == here);
            expect(here[-1] == ':');
        }
        expect(!in.len && before.p + before.len == buf + at + len);
    }
    expect(!mcp_sse_next_id(&whole, &rest, &before) && !rest.len);
}

static void expect_endpoint(const char *buf, size_t len, mcp_span_t data)
{
    expect(data.len && data.p > buf && data.p + data.len < buf + len);
    expect(!memchr(data.p, '\n', data.len) && !memchr(data.p, '\r', data.len));
    expect(*data.p != '{' && *data.p != '[');
}

static void expect_steady_answer(const char *buf, size_t size)
{
    mcp_sse_first_e told = MCP_SSE_MORE, answer;
    mcp_span_t data;
    size_t len;

    for (len = 0; len <= size; len++) {
        answer = mcp_sse_first(buf, len, &data);
        expect(told == MCP_SSE_MORE || answer == told);
        if (answer == MCP_SSE_ENDPOINT) {
            expect_endpoint(buf, len, data);
        }
        told = answer;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *buf = (const char *)data;
    size_t piece;

    for (piece = 1; piece < 5; piece++) {
        expect_same_state(buf, size, piece);
        expect_same_ids(buf, size, piece);
    }
    expect_steady_answer(buf, size < FIRST_BYTES ? size : FIRST_BYTES);
    return 0;
}
