/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_SSE_H
#define MCP_SSE_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_span.h"

/*
 * Event-stream framing (WHATWG HTML, section 9.2.6): enough to know where an event ends, and to
 * find the one event that HTTP+SSE opens with. Lines end with LF, CR LF or CR.
 */

/** Where a stream is. All zero: at its start. */
typedef struct mcp_sse_t {
    unsigned char in_line;    /* the current line has bytes */
    unsigned char in_event;   /* a line that is no comment has started since the last blank one */
    unsigned char after_cr;   /* the last byte was CR: an LF would belong to it */
    unsigned char in_comment; /* the current line started with a colon */
} mcp_sse_t;

/** Take note of bytes that pass. Constant memory, whatever the length of a line. */
void mcp_sse_feed(mcp_sse_t *sse, const char *buf, apr_size_t len);

/**
 * Whether a comment may be put here: at the start, or right behind a blank line. That may be a CR
 * whose LF has not come; then the LF ends another blank line, which means nothing.
 */
int mcp_sse_is_between_events(const mcp_sse_t *sse);

/** Looks for the ids of events. All zero: at the start of a line. */
typedef struct mcp_sse_ids_t {
    unsigned char matched; /* how much of "id:" the current line has; more: something else */
} mcp_sse_ids_t;

/**
 * Find the next line that is an id, in bytes that pass.
 * @param in moved behind @a before
 * @param before out: the bytes up to the id's value, colon included; all, where there is none
 * @return 0: there is none
 */
int mcp_sse_next_id(mcp_sse_ids_t *ids, mcp_span_t *in, mcp_span_t *before);

/** A stream that has not shown its endpoint event after so many bytes has none. */
#define MCP_SSE_MAX_FIRST (64 * 1024)

typedef enum {
    MCP_SSE_MORE,    /* may become an endpoint event: needs more bytes */
    MCP_SSE_OTHER,   /* the stream starts with something else */
    MCP_SSE_ENDPOINT /* found */
} mcp_sse_first_e;

/**
 * Whether a stream starts with an "endpoint" event (MCP 2024-11-05, HTTP with SSE), comments and
 * a BOM before it allowed. Anything that can no longer become one is told at the first byte that
 * shows it, so that nothing else is ever held back. Its event line must come before its data line,
 * as every known server sends it: otherwise each stream that starts with data would have to wait.
 * @param buf the stream from its first byte
 * @param data out, with MCP_SSE_ENDPOINT: the value of its one data line, within @a buf
 */
mcp_sse_first_e mcp_sse_first(const char *buf, apr_size_t len, mcp_span_t *data);

/**
 * Take the next event out of bytes that are kept, at the start of an event.
 * @param in moved behind the event; as it was with APR_INCOMPLETE
 * @param data its data, lines joined by LF; within @a in, or from @a p; empty where it has none
 * @return APR_INCOMPLETE: the blank line that ends it has not come
 */
apr_status_t mcp_sse_take(mcp_span_t *in, apr_pool_t *p, mcp_span_t *data);

/**
 * Whether what has come of @a buf since its byte @a from holds a blank line: without one there is
 * no event to take that was not there before.
 */
int mcp_sse_has_end(const char *buf, apr_size_t from, apr_size_t len);

#endif
