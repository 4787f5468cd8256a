/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event-stream framing. mcp_sse_feed() runs for every event of every stream, and nearly always
 * meets bytes that end with a blank line: so it looks at them from behind, line by line, and stops
 * at the first line that settles the state, which is the last line unless that is a comment. It
 * relies on in_event being set as soon as a line that is no comment starts.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memrchr */
#endif

#include "mcp_sse.h"

#include <string.h>

static const char bom[] = "\xef\xbb\xbf";
static const char endpoint[] = "endpoint";

static int is_break(char c)
{
    return c == '\n' || c == '\r';
}

/* Where the line starts that ends at @a end; @a buf if it may have started before. */
static const char *line_start(const char *buf, const char *end)
{
    const char *cr, *lf;

    if (end > buf && is_break(end[-1])) {
        return end;
    }
    lf = memrchr(buf, '\n', end - buf);
    if (lf) {
        buf = lf + 1;
    }
    cr = memrchr(buf, '\r', end - buf);
    return cr ? cr + 1 : buf;
}

/* Where the text of the line ends whose last byte is end[-1], a line break. */
static const char *text_end(const char *buf, const char *end)
{
    end--;
    return *end == '\n' && end > buf && end[-1] == '\r' ? end - 1 : end;
}

/* Go back over whole lines; what is left at the start of @a buf leaves in_event as it was. */
static void settle_event(mcp_sse_t *sse, const char *buf, const char *end, int started_in_line)
{
    while (end > buf) {
        const char *text = text_end(buf, end), *start = line_start(buf, text);

        if (start == buf && started_in_line) {
            return;
        }
        if (start == text) {
            sse->in_event = 0;
            return;
        }
        if (*start != ':') {
            sse->in_event = 1;
            return;
        }
        end = start;
    }
}

/* The bytes end within a line. */
static void settle_line(mcp_sse_t *sse, const char *buf, const char *end)
{
    const char *start = line_start(buf, end);
    int started_in_line = sse->in_line;

    if (start == buf && started_in_line) {
        return;
    }
    sse->in_line = 1;
    sse->in_comment = *start == ':';
    if (sse->in_comment) {
        settle_event(sse, buf, start, started_in_line);
    } else {
        sse->in_event = 1;
    }
}

void mcp_sse_feed(mcp_sse_t *sse, const char *buf, apr_size_t len)
{
    const char *end = buf + len;
    int started_in_line = sse->in_line;

    if (!len) {
        return;
    }
    if (sse->after_cr && *buf == '\n') {
        sse->after_cr = 0;
        if (++buf == end) {
            return;
        }
    }
    sse->after_cr = end[-1] == '\r';
    if (!is_break(end[-1])) {
        settle_line(sse, buf, end);
        return;
    }
    sse->in_line = 0;
    sse->in_comment = 0;
    settle_event(sse, buf, end, started_in_line);
}

int mcp_sse_is_between_events(const mcp_sse_t *sse)
{
    return !sse->in_line && !sse->in_event;
}

static const char id_field[] = "id:";
#define ID_FIELD (sizeof(id_field) - 1)

int mcp_sse_next_id(mcp_sse_ids_t *ids, mcp_span_t *in, mcp_span_t *before)
{
    unsigned char matched = ids->matched;
    apr_size_t len = 0;
    int found = 0;

    while (len < in->len && !found) {
        char c = in->p[len++];

        if (is_break(c)) {
            matched = 0;
        } else {
            int fits = matched < ID_FIELD && c == id_field[matched];

            matched = fits ? (unsigned char)(matched + 1) : ID_FIELD + 1;
            found = matched == ID_FIELD;
        }
    }
    ids->matched = matched;
    *before = (mcp_span_t){ in->p, len };
    *in = (mcp_span_t){ in->p + len, in->len - len };
    return found;
}

/* What the lines since the last blank one have said. */
typedef struct block_t {
    int is_endpoint;
    mcp_span_t data;
} block_t;

static mcp_sse_first_e take_event(block_t *block, mcp_span_t value, int is_whole)
{
    if (value.len > sizeof(endpoint) - 1 || memcmp(value.p, endpoint, value.len)) {
        return MCP_SSE_OTHER;
    }
    if (!is_whole) {
        return MCP_SSE_MORE;
    }
    block->is_endpoint = value.len == sizeof(endpoint) - 1;
    return block->is_endpoint ? MCP_SSE_MORE : MCP_SSE_OTHER;
}

static mcp_sse_first_e take_data(block_t *block, mcp_span_t value, int is_whole)
{
    apr_size_t i = 0;

    if (block->data.p) {
        return MCP_SSE_OTHER;
    }
    while (i < value.len && (value.p[i] == ' ' || value.p[i] == '\t')) {
        i++;
    }
    if (i < value.len && (value.p[i] == '{' || value.p[i] == '[')) {
        return MCP_SSE_OTHER;
    }
    if (!is_whole) {
        return MCP_SSE_MORE;
    }
    block->data = value;
    return value.len ? MCP_SSE_MORE : MCP_SSE_OTHER;
}

static int is_start_of(mcp_span_t part, const char *whole, int is_all)
{
    apr_size_t len = strlen(whole);

    return is_all ? part.len == len && !memcmp(part.p, whole, len)
                  : part.len <= len && !memcmp(part.p, whole, part.len);
}

/* One line that is not blank, or as much of it as has come. */
static mcp_sse_first_e take_line(block_t *block, mcp_span_t line, int is_whole)
{
    const char *colon = memchr(line.p, ':', line.len);
    mcp_span_t name = line, value = { line.p + line.len, 0 };

    if (colon) {
        name.len = colon - line.p;
        value.p = colon + 1;
        value.len = line.len - name.len - 1;
        if (value.len && *value.p == ' ') {
            value.p++;
            value.len--;
        }
    }
    if (!block->is_endpoint && colon != line.p && !is_start_of(name, "event", colon || is_whole)) {
        return MCP_SSE_OTHER;
    }
    if (!colon && !is_whole) {
        return MCP_SSE_MORE;
    }
    if (mcp_span_is(name, "event")) {
        return take_event(block, value, is_whole);
    }
    if (mcp_span_is(name, "data")) {
        return take_data(block, value, is_whole);
    }
    return MCP_SSE_MORE;
}

/* A blank line. Without data there was no event, whatever its type. */
static mcp_sse_first_e end_block(block_t *block, mcp_span_t *data)
{
    if (!block->data.p) {
        block->is_endpoint = 0;
        return MCP_SSE_MORE;
    }
    if (!block->is_endpoint) {
        return MCP_SSE_OTHER;
    }
    *data = block->data;
    return MCP_SSE_ENDPOINT;
}

mcp_sse_first_e mcp_sse_first(const char *buf, apr_size_t len, mcp_span_t *data)
{
    const char *end = buf + len, *at = buf, *stop;
    block_t block = { 0 };
    mcp_sse_first_e first;

    if (!memcmp(buf, bom, len < sizeof(bom) - 1 ? len : sizeof(bom) - 1)) {
        at += len < sizeof(bom) - 1 ? len : sizeof(bom) - 1;
    }
    while (at < end) {
        for (stop = at; stop < end && !is_break(*stop); stop++) {
        }
        if (stop == at) {
            first = end_block(&block, data);
        } else {
            first = take_line(&block, (mcp_span_t){ at, stop - at }, stop < end);
        }
        if (first != MCP_SSE_MORE) {
            return first;
        }
        at = stop + 1;
        if (at < end && *stop == '\r' && *at == '\n') {
            at++;
        }
    }
    return len < MCP_SSE_MAX_FIRST ? MCP_SSE_MORE : MCP_SSE_OTHER;
}

/* The next line, moved behind its end; 0: that has not come. A CR at the very end may
 * lack its LF. */
static int cut_line(mcp_span_t *in, mcp_span_t *line)
{
    apr_size_t len = 0, end;

    while (len < in->len && in->p[len] != '\n' && in->p[len] != '\r') {
        len++;
    }
    if (len == in->len) {
        return 0;
    }
    end = len + 1;
    end += in->p[len] == '\r' && end < in->len && in->p[end] == '\n';
    *line = (mcp_span_t){ in->p, len };
    *in = (mcp_span_t){ in->p + end, in->len - end };
    return 1;
}

/* What stands behind "data:", one space taken off. */
static int is_data(mcp_span_t line, mcp_span_t *value)
{
    static const char name[] = "data:";
    apr_size_t len = sizeof(name) - 1;

    if (line.len < len || memcmp(line.p, name, len) != 0) {
        return 0;
    }
    len += line.len > len && line.p[len] == ' ';
    *value = (mcp_span_t){ line.p + len, line.len - len };
    return 1;
}

/* The data of an event of several lines, joined; what they have in all is known. */
static const char *join_lines(mcp_span_t event, apr_size_t len, apr_pool_t *p)
{
    char *all = apr_palloc(p, len), *at = all;
    mcp_span_t line, value;

    while (cut_line(&event, &line)) {
        if (is_data(line, &value)) {
            memcpy(at, value.p, value.len);
            at += value.len;
            *at++ = '\n';
        }
    }
    return all;
}

apr_status_t mcp_sse_take(mcp_span_t *in, apr_pool_t *p, mcp_span_t *data)
{
    mcp_span_t left = *in, line, value, first = { NULL, 0 };
    apr_size_t len = 0;

    while (cut_line(&left, &line)) {
        if (line.len == 0) {
            *data = first;
            if (len > first.len + 1) {
                *data = (mcp_span_t){ join_lines(*in, len, p), len - 1 };
            }
            *in = left;
            return APR_SUCCESS;
        }
        if (is_data(line, &value)) {
            first = first.p ? first : value;
            len += value.len + 1;
        }
    }
    return APR_INCOMPLETE;
}

int mcp_sse_has_end(const char *buf, apr_size_t from, apr_size_t len)
{
    apr_size_t i;

    for (i = from ? from : 1; i < len; i++) {
        if (is_break(buf[i]) && is_break(buf[i - 1]) && !(buf[i] == '\n' && buf[i - 1] == '\r')) {
            return 1;
        }
    }
    return 0;
}
