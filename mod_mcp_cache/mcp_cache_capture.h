/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_CAPTURE_H
#define MCP_CACHE_CAPTURE_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_span.h"

/*
 * What passes from a backend to a client, read along: is it one whole answer that may be stored,
 * and does it say that something has changed? Bytes come in any cut. A capture is malloc's, belongs
 * to one thread at a time and may move between threads.
 */

typedef struct mcp_cache_capture_t mcp_cache_capture_t;

typedef enum {
    MCP_CACHE_CHANGED_TOOLS,
    MCP_CACHE_CHANGED_PROMPTS,
    MCP_CACHE_CHANGED_RESOURCES, /* the lists of them */
    MCP_CACHE_CHANGED_RESOURCE   /* one, by its URI */
} mcp_cache_change_e;

/** Called from mcp_cache_capture_feed(). @a uri lives until it returns; NULL but for the last. */
typedef void mcp_cache_change_fn(void *baton, mcp_cache_change_e what, const char *uri);

typedef struct mcp_cache_capture_rule_t {
    int is_stream;       /* an event stream; else one JSON text */
    mcp_span_t id;       /* of the request, raw; absent: no answer is wanted, only changes */
    apr_size_t max;      /* bytes of a result */
    int by_hints;        /* the result says itself for how long, and whose it is */
    mcp_cache_change_fn *changed; /* NULL: not wanted */
    void *baton;
} mcp_cache_capture_rule_t;

typedef enum {
    MCP_CACHE_ANSWER_STORE,  /* may be stored */
    MCP_CACHE_ANSWER_REFUSE, /* the backend has answered, with something that may not */
    MCP_CACHE_ANSWER_BROKEN  /* it has not, or not to the end */
} mcp_cache_answer_e;

typedef struct mcp_cache_answer_t {
    mcp_span_t result;      /* within the capture */
    int newlines;           /* result has line ends in it */
    apr_int64_t ttl_ms;     /* by_hints only: never negative */
    int is_public;          /* by_hints only */
    apr_uint32_t hint_at, hint_len; /* by_hints only: the number of ttlMs within result */
} mcp_cache_answer_t;

/** NULL: out of memory. @a rule is copied, its id too. */
mcp_cache_capture_t *mcp_cache_capture_create(const mcp_cache_capture_rule_t *rule);
void mcp_cache_capture_destroy(mcp_cache_capture_t *capture);

/** Take note of bytes that pass. Never fails, never waits; takes no more than max and a little. */
void mcp_cache_capture_feed(mcp_cache_capture_t *capture, const char *buf, apr_size_t len);

/** Nothing more can be learnt: feeding may stop. */
int mcp_cache_capture_is_over(const mcp_cache_capture_t *capture);

/** No answer that may be stored will come of it. */
int mcp_cache_capture_is_refused(const mcp_cache_capture_t *capture);

/**
 * The body has ended.
 * @param whole whether it ended as it should, as far as HTTP can tell
 */
mcp_cache_answer_e mcp_cache_capture_judge(mcp_cache_capture_t *capture, int whole,
                                           mcp_cache_answer_t *answer);

/** Bytes that it holds now. */
apr_size_t mcp_cache_capture_held(const mcp_cache_capture_t *capture);

#endif
