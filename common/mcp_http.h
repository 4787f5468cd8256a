/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTP_H
#define MCP_HTTP_H

#include <apr_pools.h>
#include <apr_tables.h>

#include "mcp_span.h"

/*
 * The answering side of HTTP/1.x (RFC 9112), as bytes: a response head, and where its body ends.
 * Nothing here does I/O or blocks.
 */

#define MCP_HTTP_MAX_HEAD (64 * 1024)

typedef struct mcp_http_field_t {
    const char *name;
    const char *value; /* without white space around it */
} mcp_http_field_t;

typedef struct mcp_http_head_t {
    int minor;                  /* of HTTP/1.minor */
    int status;                 /* 100..999 */
    const char *reason;         /* may be "" */
    apr_array_header_t *fields; /* of mcp_http_field_t, in order */
    const char *error;          /* static text, with APR_EGENERAL */
} mcp_http_head_t;

/**
 * Read a response head.
 * @param buf what has come so far; on success it is cut up in place: names, values and reason
 *        point into it, NUL-terminated
 * @param used out: the length of the head, its empty line included
 * @param p where the array of fields lives
 * @return APR_SUCCESS; APR_INCOMPLETE: read more; APR_EGENERAL: no head, see head->error (a bad
 *         status line, a field name that is no token, a control character in a value, a folded
 *         line, more than 200 fields, more than MCP_HTTP_MAX_HEAD bytes)
 */
apr_status_t mcp_http_parse_head(mcp_http_head_t *head, char *buf, apr_size_t len,
                                 apr_size_t *used, apr_pool_t *p);

/** The value of the first field of that name, any case; NULL if there is none, or no head. */
const char *mcp_http_field(const mcp_http_head_t *head, const char *name);

typedef enum {
    MCP_HTTP_BODY_NONE,    /* HEAD, 1xx, 204, 304 */
    MCP_HTTP_BODY_LENGTH,
    MCP_HTTP_BODY_CHUNKED,
    MCP_HTTP_BODY_CLOSE    /* ends with the connection */
} mcp_http_body_e;

typedef struct mcp_http_body_t {
    mcp_http_body_e kind;
    apr_uint64_t left;  /* bytes to come: of the body, or of the chunk */
    int state;          /* private */
    unsigned line;      /* private: bytes of the chunk line or trailer so far */
    int done;           /* the body is whole; never set for MCP_HTTP_BODY_CLOSE */
    int has_length;     /* left says what Content-Length says, also where a HEAD has no body */
    const char *error;  /* static text, with APR_EGENERAL */
} mcp_http_body_t;

/**
 * Decide how the body of @a head ends (RFC 9112, section 6.3).
 * @param is_head whether the request was a HEAD: no body, but what the head says of one reaches the
 *        client, and must not contradict itself either
 * @return APR_EGENERAL, with body->error, where the head contradicts itself: Content-Lengths that
 *         differ, one that is no number, one beside Transfer-Encoding, or a Transfer-Encoding
 *         other than chunked, or any in HTTP/1.0
 */
apr_status_t mcp_http_body_init(mcp_http_body_t *body, const mcp_http_head_t *head, int is_head);

/**
 * Take the next stretch of payload out of what the backend sent.
 * @param in moved past what was used: framing and payload. What is left when body->done is set
 *        does not belong to this response.
 * @param out the payload, within the input; empty if the input ended, or the body did. There may be
 *        more while @a in is not empty and body->done is not set.
 * @return APR_EGENERAL with body->error where the chunking is broken
 */
apr_status_t mcp_http_body_next(mcp_http_body_t *body, mcp_span_t *in, mcp_span_t *out);

#endif
