/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RPC_H
#define MCP_RPC_H

#include <apr_pools.h>
#include <apr_tables.h>

#include "mcp_span.h"

/*
 * JSON-RPC 2.0 as MCP uses it: what a gateway must know of a message, found in one pass over the
 * bytes, without building a tree. Numbers keep their text, so an id of 2^53+1 is echoed exactly.
 */

typedef enum {
    MCP_RPC_INVALID,      /* not JSON, or not a JSON-RPC message: see error */
    MCP_RPC_REQUEST,      /* method and id */
    MCP_RPC_NOTIFICATION, /* method, no id */
    MCP_RPC_RESPONSE,     /* no method; result or error */
    MCP_RPC_BATCH         /* an array; see batch */
} mcp_rpc_kind_e;

/** Why a body is no message; also the JSON-RPC code that an answer to it carries. */
typedef enum {
    MCP_RPC_OK = 0,
    MCP_RPC_EPARSE = -32700,  /* not JSON (RFC 8259), or nested deeper than MCP_RPC_MAX_DEPTH */
    MCP_RPC_EINVALID = -32600 /* JSON, but no JSON-RPC message */
} mcp_rpc_error_e;

#define MCP_RPC_MAX_DEPTH 512
#define MCP_RPC_MAX_BATCH 10000 /* a longer one is MCP_RPC_EINVALID */

typedef struct mcp_rpc_t mcp_rpc_t;
struct mcp_rpc_t {
    mcp_rpc_kind_e kind;
    mcp_rpc_error_e error;
    const char *detail;      /* static text that says what is wrong; NULL if nothing is */

    /*
     * Raw JSON text (with the quotes of a string); absent: p NULL. Also of an invalid message, so
     * that the refusal can carry it; absent where it is not certain, as when two are there.
     */
    mcp_span_t id;
    const char *method;      /* decoded, from the pool; NULL if absent */
    const char *name;        /* params.name, if a string; decoded */
    const char *uri;         /* params.uri, if a string; decoded */
    const char *version;     /* params._meta["io.modelcontextprotocol/protocolVersion"], decoded */
    mcp_span_t params;       /* raw */
    mcp_span_t arguments;    /* params.arguments, raw */
    mcp_span_t result;       /* raw, of a response */
    mcp_span_t failure;      /* "error", raw, of a response */

    /*
     * Set where two readers of the same bytes could disagree: one of jsonrpc, id, method, params,
     * result, error, params.name, params.uri, params._meta (or the version in it) stands twice or
     * in another case, or a text among them holds NUL or half a surrogate pair, or method stands
     * beside result or error. Whoever decides on the message refuses it with -32600.
     * Of a batch: set if it is of one of its messages.
     */
    unsigned ambiguous : 1;
    unsigned has_input_responses : 1; /* params.inputResponses, in any case */
    unsigned has_request_state : 1;   /* params.requestState, in any case */
    unsigned has_task : 1;            /* params.task, in any case */

    /*
     * A name stands twice in one object anywhere in the message (escapes undone), or
     * params.arguments stands in another case. Of a batch: set if it is of one of its messages.
     */
    unsigned duplicates : 1;

    /* For MCP_RPC_BATCH, of mcp_rpc_t *, never empty, never nested; not to be written to. */
    apr_array_header_t *batch;
};

/**
 * Read one message. Never fails for what the bytes hold: look at kind and error.
 * @param buf the body, UTF-8, not owned; spans in the result point into it
 * @param p where the result and decoded strings live
 */
const mcp_rpc_t *mcp_rpc_parse(const char *buf, apr_size_t len, apr_pool_t *p);

/** Quote @a text as a JSON string, with the quotes, from @a p. Invalid UTF-8 becomes U+FFFD. */
const char *mcp_rpc_quote(const char *text, apr_pool_t *p);

#endif
