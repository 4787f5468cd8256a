/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_RESCUE_STEPS_H
#define MCP_PROXY_RESCUE_STEPS_H

#include "mcp_proxy_opening.h"
#include "mcp_proxy_rescue.h"
#include "mcp_proxy_rescue_store.h"
#include "mcp_proxy_tools.h"

/* A rescue as its steps see it (mcp_proxy_rescue.c), and its messages (..._message.c). */

typedef enum {
    MCP_RESCUE_NOT_BEGUN,
    MCP_RESCUE_AGAIN,       /* the client's request, once more where its session should be */
    MCP_RESCUE_ASK,         /* the gateway's own: does the member know the session? */
    MCP_RESCUE_PAUSE,       /* before one of these */
    MCP_RESCUE_WAITING,     /* for another request that rescues this session */
    MCP_RESCUE_INITIALIZE,
    MCP_RESCUE_INITIALIZED, /* the notification */
    MCP_RESCUE_REPLAY,      /* the client's request, where its session is now */
    MCP_RESCUE_OVER
} mcp_rescue_step_e;

typedef struct mcp_rescue_t {
    mcp_rescue_step_e step;
    int resumes;              /* the client has had the head: its stream goes on */
    int asks;                 /* the stream of a call has broken off: is its answer lost? */
    int was_refused;          /* the member said 404 */
    int is_done;              /* this request has taken the session elsewhere */
    int holds_claim;
    int has_member;           /* the balancer has just chosen it */
    unsigned tries, agains, adoptions;
    apr_time_t until;
    apr_time_t step_until;    /* the same of the step under way, while holds_claim */
    apr_time_t renew_at;      /* while holds_claim */
    apr_time_t look_at;       /* while MCP_RESCUE_WAITING */
    mcp_rescue_claim_t claim;
    const char *id;           /* of initialize, raw JSON */
    const char *old_session, *session, *version;
    mcp_opening_t answer;     /* to it */
} mcp_rescue_t;

/** Whether the session of a request may be looked after at all. */
int mcp_rescue_is_possible(const mcp_exchange_t *x);

#endif
