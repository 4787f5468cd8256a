/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_REQUEST_H
#define MCP_HTTPD_REQUEST_H

#include <httpd.h>

#include "mcp_rpc.h"

/*
 * What the modules share of one request: its body, read once, whoever of them needs it first, the
 * message in it, and who sends it. A module of another version, whose record is laid out
 * otherwise, neither finds this one nor is found: it reads what this one's input filter hands on.
 */

typedef struct mcp_request_t {
    char *body;             /* whole, NUL behind it; NULL while unread or where there is none */
    apr_size_t length;
    int complete;           /* the body has been read to its end */
    const char *type;       /* Content-Type; NULL: none */
    const char *coding;     /* Content-Encoding; NULL: none */
    int json;               /* the type is application/json */
    apr_off_t declared;     /* Content-Length; 0: none; -1: no number, or beyond 10^15 */
    const mcp_rpc_t *rpc;   /* NULL until mcp_request_rpc() */
} mcp_request_t;

/** Once per module, from its register_hooks; the filter's name is the module's own. */
void mcp_request_register(apr_pool_t *pconf, const char *filter_name);

/** The record of this request, made if nobody has. Belongs to r->pool. */
mcp_request_t *mcp_request_get(request_rec *r);

/**
 * Read the whole body, on this thread if need be. Once it is whole, an input filter hands it to
 * whatever handler comes, as if it came from the client.
 * @param limit bytes; more is HTTP_REQUEST_ENTITY_TOO_LARGE
 * @param timeout for the whole body, in microseconds; HTTP_REQUEST_TIME_OUT. Over HTTP/2 it is
 *        looked at between two reads only, which end when mod_http2 says so
 * @return OK; the status that refuses the request, described with mcp_error_set(); AP_FILTER_ERROR:
 *         a filter has answered already. From the fixups phase of a request that can be
 *         parked (see mcp_httpd_park.h), and only where @a may_suspend: SUSPENDED while the client
 *         has not sent all of it; the hook returns that at once, and is run again later.
 */
int mcp_request_read(request_rec *r, apr_off_t limit, apr_interval_time_t timeout, int may_suspend);

/**
 * For a hook that refuses the request: take the body if it is there or comes within 50 ms, and is
 * no longer than @a limit, so that the refusal can have the message's id. On a worker. No filter
 * hands it on.
 * @return OK, whether or not it is there now; AP_FILTER_ERROR: a filter has answered already
 */
int mcp_request_read_ready(request_rec *r, apr_off_t limit);

/** For a handler that takes the body from the record: the input filter has nothing more to give. */
void mcp_request_take(request_rec *r);

/* mcp_httpd_message.c */

/** The message in a body that was read. Never NULL; its kind tells what it is. */
const mcp_rpc_t *mcp_request_rpc(request_rec *r);

/**
 * For a module that decides on the body: refuse what two readers could read differently.
 * @return OK, or the status of an answer that has been described with mcp_error_set(): 415 for a
 *         Content-Encoding or a charset other than utf-8, 400 for no JSON (-32700), no message or
 *         an ambiguous one (-32600)
 */
int mcp_request_decidable(request_rec *r);

/** Revision 2026-07-28 or later is asked for by the MCP-Protocol-Version header. */
int mcp_request_is_stateless(request_rec *r);

/**
 * 2026-07-28: MCP-Protocol-Version, Mcp-Method and Mcp-Name against the body. Older: OK.
 * @return OK, or 400 with an answer described (-32020)
 */
int mcp_request_check_headers(request_rec *r);

/* mcp_httpd_caller.c */

/**
 * Who asks: the user that httpd authenticated, with the vhost and AuthName, percent-encoded; NULL
 * without one. From r->pool.
 */
const char *mcp_request_identity(request_rec *r);

/** "ip:" and the client's address, an IPv6 one cut to /64, a mapped one folded. From r->pool. */
const char *mcp_request_address(request_rec *r);

#endif
