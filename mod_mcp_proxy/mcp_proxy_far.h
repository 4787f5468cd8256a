/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_FAR_H
#define MCP_PROXY_FAR_H

#include "mcp_httpd_park.h"
#include "mcp_proxy.h"
#include "mcp_proxy_far_value.h"
#include "mcp_redis_wait.h"

/*
 * MCPProxySessionStore redis://...: sessions that several gateways share. The table in shared
 * memory is the cache of what is there, and all there is while Redis is away. Requests ask only for
 * ids that the table does not know, and wait only for a new session to be written; what may take
 * longer is the keeper's (mcp_proxy_far_keeper.h). Nothing here blocks unless it says so.
 */

/** For one request, to ask or to write. */
#define MCP_FAR_TIMEOUT apr_time_from_msec(25)

/** What all children know of the store: shared memory, zero at first. */
typedef struct mcp_far_shared_t {
    mcp_breaker_t breaker;
    apr_uint64_t server;   /* hash of its run id; 0: none met */
    apr_time_t restarted;  /* when another one was met, or it was back: what it had been told before
                            * may be lost */
} mcp_far_shared_t;

/** In child_init, where MCPProxySessionStore is Redis. */
void mcp_far_child_init(apr_pool_t *pchild, server_rec *s, mcp_far_shared_t *shared);

/** Whether there is such a store, be it away or not. */
int mcp_far_is_on(void);

/** The client, for whoever keeps more in the same store; NULL if not mcp_far_is_on(). */
mcp_redis_t *mcp_far_redis(void);

/** A request has waited so long for a call to the store, which ended like this: for the metrics. */
void mcp_far_count(apr_status_t rv, apr_interval_time_t took);

/** The store that has answered says which one it is. */
void mcp_far_met(const mcp_redis_info_t *info);

/* ---- looking up ---- */

/**
 * What the table does not know, to be asked for at once. From r->pool. On the one thread that has
 * the request.
 */
typedef struct mcp_far_ask_t mcp_far_ask_t;

/**
 * The table does not know this session, or as another identity's: ask for it, if that makes sense.
 * @param ask made where there is none yet
 * @param here what mcp_far_answer() says if it is not there
 * @param unanswered ... and if nobody says so
 * @return APR_SUCCESS: it will be asked for; APR_NOTFOUND: it is not there; APR_EBUSY: the store is
 *         away
 */
apr_status_t mcp_far_want(request_rec *r, mcp_far_ask_t **ask, const mcp_session_key_t *key,
                          apr_status_t here, apr_status_t unanswered);

/** @return APR_EAGAIN: it takes a moment; else the answers are there, or there are none */
apr_status_t mcp_far_ask_start(mcp_far_ask_t *ask);

/** Blocks, until the answers are there or @a until has come: APR_EAGAIN. */
apr_status_t mcp_far_ask_wait(mcp_far_ask_t *ask, apr_time_t until);

/** When there will be an answer, or none. */
apr_time_t mcp_far_ask_deadline(const mcp_far_ask_t *ask);

/** Wait on @a park's loop; the fixups phase runs again then. On a worker, as the last act. */
int mcp_far_ask_park(mcp_far_ask_t *ask, mcp_park_t *park);

/**
 * What became of one id.
 * @return APR_SUCCESS, with the member's name; APR_EACCES: another identity's; or what
 *         mcp_far_want() was given
 */
apr_status_t mcp_far_answer(const mcp_far_ask_t *ask, const mcp_session_key_t *key,
                            const char **member);

/** Whether mcp_far_answer() says APR_EACCES of any of the ids, or there were too many of them. */
int mcp_far_is_any_foreign(const mcp_far_ask_t *ask);

/* ---- writing ---- */

/** A new session on its way to the store. */
typedef struct mcp_far_put_t mcp_far_put_t;

/** @return NULL: it is written already, or cannot be now and will be when it is used */
mcp_far_put_t *mcp_far_put_start(request_rec *r, const mcp_session_key_t *key,
                                 const proxy_worker *worker);

/** What to poll for: POLLIN or POLLOUT. A watch on @a fd must end before each step. */
int mcp_far_put_fd(const mcp_far_put_t *put, short *events);
apr_time_t mcp_far_put_deadline(const mcp_far_put_t *put);

/** @return APR_EAGAIN: not yet; else it is over, one way or another, and @a put with it */
apr_status_t mcp_far_put_step(mcp_far_put_t *put);

/** The client has left: nobody waits any more. */
void mcp_far_put_end(mcp_far_put_t *put);

/* ---- behind the request's back ---- */

/**
 * As mcp_session_find(), and have the store told now and then that the session is used.
 * @param worker its server, where there is no balancer
 */
apr_status_t mcp_far_use(const mcp_session_key_t *key, const proxy_balancer *balancer,
                         const proxy_worker *worker, apr_uint64_t *member);

/** How often an open stream has to say that it is use. */
apr_interval_time_t mcp_far_renew_every(void);

/** The session is at another member now: written over what stands there. */
void mcp_far_move(const mcp_session_key_t *key, const proxy_worker *worker);

void mcp_far_forget(const mcp_session_key_t *key);

#endif
