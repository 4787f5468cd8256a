/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_RL_CHECK_H
#define MCP_RL_CHECK_H

#include <httpd.h>

#include "mcp_rl_config.h"
#include "mcp_rl_keeper.h"
#include "mcp_rl_shared.h"

/* The request side of mod_mcp_ratelimit: its hooks, and what they leave on a request. */

/** One per process. In the parent, store.redis and keeper are not set. */
typedef struct mcp_rl_process_t {
    mcp_rl_shared_t *shared;
    mcp_rl_store_t store;
    mcp_rl_redis_t redis;
    mcp_rl_keeper_t *keeper;
    server_rec *server;
} mcp_rl_process_t;

/** NULL until post_config has run. */
extern mcp_rl_process_t *mcp_rl_process;

typedef struct mcp_rl_request_t {
    request_rec *r;       /* after internal redirects: the last one */
    int decided;          /* the limits of its location have been looked at */
    unsigned asked;       /* a bit for each limit that was asked for, but tools */
    const apr_array_header_t *tools; /* of mcp_rl_rule_t *, that have been looked at */
    int address_charged;
    const mcp_rl_ask_t *address; /* asked before authentication, and allowed; NULL: nothing */
    const mcp_rl_verdict_t *address_verdict;
    int filtered;         /* the output filter is in place */
    int head_seen;        /* by it */
    mcp_rl_stream_t *stream;
    int lines;            /* of these, header fields that the client is to read */
    struct {
        const char *name;
        const char *value;
    } line[3];
    apr_int64_t told;     /* what remains of the limit they speak of */
} mcp_rl_request_t;

/** The record of a request, or of the one it was redirected from; NULL if there is none. */
mcp_rl_request_t *mcp_rl_request_find(request_rec *r);

/** The same, made if there is none. */
mcp_rl_request_t *mcp_rl_request_get(request_rec *r);

/** Hook header_parser: the window per address, before anybody is authenticated. */
int mcp_rl_check_address(request_rec *r);

/** Hook fixups: everything else. */
int mcp_rl_check_request(request_rec *r);

/** Hook insert_error_filter: httpd or a module answers with an error of its own. */
void mcp_rl_check_error(request_rec *r);

/** Hook log_transaction: a 401 that came some other way. */
int mcp_rl_check_log(request_rec *r);

/** Charge the address of a request that ends as 401, once. On a worker thread this
 * may ask Redis. */
void mcp_rl_charge_401(request_rec *r);

/* mcp_rl_filter.c */

void mcp_rl_filter_register(void);

/** See the response's head, and a stream to its end. */
void mcp_rl_filter_add(mcp_rl_request_t *q);

/* mcp_rl_answer.c */

/** Set the key in the store of an ask, whose rule is set, and its digest. From r->pool. */
void mcp_rl_name(request_rec *r, mcp_rl_ask_t *ask, const char *who);

/** Whose limits are asked for: MCPRateLimitKey, else the identity, else the address. */
const char *mcp_rl_who(request_rec *r, const mcp_rl_dir_t *dir);

/** Note what header fields shall say how things stand with @a ask, and nothing else. */
void mcp_rl_tell(mcp_rl_request_t *q, const mcp_rl_ask_t *ask, const mcp_rl_verdict_t *verdict);

/** Say it in @a headers, in place of whatever a backend said under these names. */
void mcp_rl_say(const mcp_rl_request_t *q, apr_table_t *headers);

/** Refuse. @return what the hook returns */
int mcp_rl_refuse(mcp_rl_request_t *q, const mcp_rl_ask_t *asks, const mcp_rl_outcome_t *outcome);

/** The store is away, and that means no. @return what the hook returns */
int mcp_rl_refuse_closed(mcp_rl_request_t *q);

#endif
