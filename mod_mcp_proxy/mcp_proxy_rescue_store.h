/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_RESCUE_STORE_H
#define MCP_PROXY_RESCUE_STORE_H

#include "mcp_blobs.h"
#include "mcp_proxy_record.h"
#include "mcp_proxy_rescue_far.h"

/*
 * Where the records of sessions that can be rescued are, and who rescues one right now: one request
 * of all children at a time, of all gateways with a far store. Shared memory has a copy of what is
 * there, and all there is while that does not answer. Any thread; what asks the far store blocks
 * for a moment and says so.
 */

typedef struct mcp_rescue_store_t {
    mcp_blobs_t *near;             /* shared by all children */
    mcp_rescue_far_t far;          /* redis is NULL: there is none */
    const mcp_record_keys_t *keys;
    apr_interval_time_t ttl;       /* of a record that is not used */
} mcp_rescue_store_t;

#define MCP_RESCUE_TOKEN 16

/** What a rescue starts from. */
typedef struct mcp_rescue_claim_t {
    char token[MCP_RESCUE_TOKEN]; /* whose claim it is: process, and random bytes */
    mcp_span_t params;            /* the client's own, from the pool */
    mcp_record_route_t route;     /* generation 0: it was never rescued */
    mcp_span_t before;            /* ... encrypted, as it stood there; no bytes: none did */
} mcp_rescue_claim_t;

/** Memory for the records of @a entries sessions. */
apr_size_t mcp_rescue_store_size(unsigned entries);

/**
 * A session was opened with these parameters. Blocks for the far store.
 * @return APR_ENOSPC: they are longer than MCP_RECORD_MAX_PARAMS; or why they could not be kept
 */
apr_status_t mcp_rescue_remember(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                                 mcp_span_t params, apr_pool_t *p);

/**
 * Where a rescued session is, as far as this gateway knows; a use, of any session.
 * @return APR_NOTFOUND: where it always was
 */
apr_status_t mcp_rescue_find_route(const mcp_rescue_store_t *store,
                                   const mcp_session_key_t *session, apr_pool_t *p,
                                   mcp_record_route_t *route);

/** A use of a session that lasts: its records live at least so long. */
void mcp_rescue_prolong(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                        apr_interval_time_t life);

/**
 * Be the one who rescues this session, for @a life at most. Blocks for the far store.
 * @return APR_SUCCESS, with params and route; APR_EBUSY: somebody else does that, route is filled
 *         in all the same; APR_NOTFOUND: nothing to rescue it with; both end without a claim
 */
apr_status_t mcp_rescue_claim(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              apr_interval_time_t life, apr_pool_t *p, mcp_rescue_claim_t *claim);

/**
 * Who has the claim is still at it: it is good for @a life from now on. Blocks for the far store.
 * @return APR_EEXIST: it had run out, and another one has it
 */
apr_status_t mcp_rescue_renew(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                              const mcp_rescue_claim_t *claim, apr_interval_time_t life,
                              apr_pool_t *p);

/**
 * Give a claim back; with @a route the session is there from now on. Blocks for the far store.
 * @return APR_EEXIST: the claim had run out, and another one has moved the session or made it
 *         somebody's again: that stays; else whether the route could be written
 */
apr_status_t mcp_rescue_release(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                                const mcp_rescue_claim_t *claim, const mcp_record_route_t *route,
                                apr_pool_t *p);

/** What a server says of a tool; @a scope is whose tools these are. */
void mcp_rescue_note_tool(const mcp_rescue_store_t *store, const char *scope, const char *tool,
                          int is_read_only);

/** Whether it was last said to read only; a use. */
int mcp_rescue_tool_reads(const mcp_rescue_store_t *store, const char *scope, const char *tool);

/** The session is gone for good, and so is what was kept of it. Blocks for the far store. */
void mcp_rescue_forget(const mcp_rescue_store_t *store, const mcp_session_key_t *session,
                       apr_pool_t *p);

#endif
