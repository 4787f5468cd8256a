/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_JSON_H
#define MCP_JSON_H

#include <apr_errno.h>
#include <apr_pools.h>

#include "mcp_span.h"

/*
 * A strict reader of JSON text (RFC 8259): token by token, in one pass, without a tree. It takes
 * nothing that another strict reader would refuse: no BOM, no NaN, no comment, no invalid UTF-8.
 * It also notices names that stand twice in one object.
 */

#define MCP_JSON_MAX_DEPTH 512
#define MCP_JSON_NAMES 64

/** A string as it stands in the text. */
typedef struct mcp_json_string_t {
    mcp_span_t raw;                  /* what is between the quotes */
    unsigned has_escape : 1;
    unsigned has_nul : 1;            /* as \u0000; elsewhere it is not JSON */
    unsigned has_lone_surrogate : 1; /* a \uD800..\uDFFF that is no half of a pair */
} mcp_json_string_t;

/** An object or an array that is being read. */
typedef struct mcp_json_nest_t {
    unsigned char is_object;
    unsigned char has_started; /* private: the first member or element has been told */
    unsigned names;            /* private: where its names start among those kept */
} mcp_json_nest_t;

typedef struct mcp_json_t {
    const char *at;    /* the next byte */
    const char *end;
    const char *error; /* static text, once something has returned APR_EGENERAL */
    int duplicates;    /* a name stood twice in one object; the caller may set it back to 0 */
    int odd_names;     /* a name held NUL or half a surrogate pair */
    unsigned depth;    /* private, from here on */
    apr_pool_t *pool;
    apr_pool_t *scratch;
    mcp_span_t *names; /* decoded, of all the objects that are open */
    unsigned used;
    unsigned size;
    mcp_span_t first_names[MCP_JSON_NAMES];
} mcp_json_t;

/**
 * Start to read @a buf, which is not owned.
 * @param p for a subpool, which is made only if a text needs one, and goes with mcp_json_done()
 */
void mcp_json_init(mcp_json_t *json, const char *buf, apr_size_t len, apr_pool_t *p);

/** Give back what mcp_json_next() told names with. */
void mcp_json_done(mcp_json_t *json);

/** Private: mcp_json_peek() where there is more white space, or nothing more. */
int mcp_json_peek_far(mcp_json_t *json);

/** The first byte of the value that comes next, white space skipped; -1 at the end of the text. */
static inline int mcp_json_peek(mcp_json_t *json)
{
    const char *at = json->at;

    /* What mostly stands between two tokens: nothing, or one space. */
    if (at < json->end && (unsigned char)*at > ' ') {
        return (unsigned char)*at;
    }
    if (json->end - at > 1 && *at == ' ' && (unsigned char)at[1] > ' ') {
        json->at = at + 1;
        return (unsigned char)at[1];
    }
    return mcp_json_peek_far(json);
}

/**
 * Step into the object or array that comes next.
 * @return APR_EGENERAL: it is neither, or nested deeper than MCP_JSON_MAX_DEPTH
 */
apr_status_t mcp_json_open(mcp_json_t *json, mcp_json_nest_t *nest);

/**
 * Step to the next value in @a nest; the caller reads or skips it before the next call.
 * @param name out, of an object only: the decoded name, until mcp_json_done()
 * @return APR_EOF: @a nest has ended; APR_EGENERAL: this is not JSON
 */
apr_status_t mcp_json_next(mcp_json_t *json, mcp_json_nest_t *nest, mcp_span_t *name);

/** Read the string that comes next. @return APR_EGENERAL: it is none, or a broken one */
apr_status_t mcp_json_string(mcp_json_t *json, mcp_json_string_t *string);

/**
 * Read the value that comes next, whatever it is.
 * @param raw out: its text, without white space around it
 * @return APR_EGENERAL: this is not JSON
 */
apr_status_t mcp_json_skip(mcp_json_t *json, mcp_span_t *raw);

/** @return APR_EGENERAL: more than white space is left */
apr_status_t mcp_json_end(mcp_json_t *json);

/**
 * What a string stands for, from @a p, with a NUL behind it; a lone surrogate becomes U+FFFD.
 * @param len out, may be NULL: in bytes, for the string may hold NULs
 */
const char *mcp_json_decode(const mcp_json_string_t *string, apr_pool_t *p, apr_size_t *len);

/** The length in bytes, 1 to 4, of the UTF-8 character at @a at; 0: there is none (RFC 3629). */
apr_size_t mcp_json_utf8(const char *at, const char *end);

#endif
