/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_RESCUE_FAR_H
#define MCP_PROXY_RESCUE_FAR_H

#include "mcp_proxy_record.h"
#include "mcp_redis.h"

/*
 * Records of sessions in Redis, for all gateways: beside mcp:session:{ID-DIGEST} the keys with
 * :params, :route and :claim behind it. Every function blocks, on a worker, and only where a
 * session is opened, rescued or over. What fails is not there.
 */

/** For a session that is opened or over. */
#define MCP_RESCUE_FAR_TIMEOUT apr_time_from_msec(25)
/** For a claim, which a session hangs on: taking it, and giving it back. */
#define MCP_RESCUE_FAR_CLAIM_TIMEOUT apr_time_from_msec(250)

typedef struct mcp_rescue_far_t {
    mcp_redis_t *redis;
    /** After each call, for metrics; @a info is valid with APR_SUCCESS. May be NULL. */
    void (*ended)(apr_status_t rv, apr_interval_time_t took, const mcp_redis_info_t *info);
} mcp_rescue_far_t;

/** A session was opened: its parameters, encrypted; a route that stood there is gone. */
apr_status_t mcp_rescue_far_remember(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                     mcp_span_t params, apr_interval_time_t ttl, apr_pool_t *p);

/**
 * Take the claim, and read what there is, encrypted; absent: p NULL.
 * @return APR_SUCCESS; APR_EBUSY: another one has it, params and route are read all the same; else
 *         the store cannot be asked
 */
apr_status_t mcp_rescue_far_claim(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                  mcp_span_t token, apr_interval_time_t life, apr_pool_t *p,
                                  mcp_span_t *params, mcp_span_t *route);

/**
 * The claim is good for @a life from now on.
 * @return APR_SUCCESS, also where it had run out and nobody had taken it; APR_EEXIST: another one
 *         has it; else the store cannot be asked
 */
apr_status_t mcp_rescue_far_renew(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                  mcp_span_t token, apr_interval_time_t life, apr_pool_t *p);

/** One route in place of another, both encrypted. */
typedef struct mcp_rescue_change_t {
    mcp_span_t token;        /* the claim that ends with it; no bytes: none does */
    mcp_span_t before;       /* what stood there when this began; no bytes: none */
    mcp_span_t after;        /* p NULL: leave it */
    apr_interval_time_t ttl;
} mcp_rescue_change_t;

/**
 * Give the claim back, if it is still this one, and write the route, if it is still that one: a
 * claim may have run out, and another gateway been faster.
 * @return APR_EEXIST: it was, and what it has written stays
 */
apr_status_t mcp_rescue_far_change(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                                   const mcp_rescue_change_t *change, apr_pool_t *p);

/** The session is over. */
void mcp_rescue_far_forget(const mcp_rescue_far_t *far, const mcp_session_key_t *session,
                           apr_pool_t *p);

#endif
