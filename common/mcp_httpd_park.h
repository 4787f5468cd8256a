/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_PARK_H
#define MCP_HTTPD_PARK_H

#include <httpd.h>
#include <http_config.h>

#include "mcp_loop.h"

/*
 * Parking a request: it leaves its worker thread, waits on an event loop for as long as it takes,
 * goes on on a worker for whatever may block, and ends as any request does; its connection stays
 * usable. The worker is one of the MPM's at first, and one of the crew's (mcp_httpd_crew.h) from
 * the first parked request of a connection on: httpd 2.4 has no way back to the MPM. A request that
 * cannot be parked (HTTP/2, another MPM, a filter that may block, a subrequest) runs through the
 * same functions on its own thread, with a loop of its own.
 *
 * At any moment exactly one thread has the request: the worker, or the loop. A function named
 * mcp_park_fn runs on the loop and must not block; one named mcp_park_work_fn runs on a worker and
 * returns what a handler returns.
 */

typedef struct mcp_park_t mcp_park_t;
typedef void mcp_park_fn(mcp_park_t *park, void *baton);
typedef int mcp_park_work_fn(mcp_park_t *park, void *baton);

/**
 * Register the hooks, once per module, from its register_hooks. Each module that does so has loops
 * and a crew of its own in every child.
 * @param loops how many event loops, a thread each, at most; never more than there are cores, nor
 *        more than 4
 */
void mcp_park_register_hooks(module *m, int loops);

/** From post_config, for the children to come: 0 keeps every request on its thread. */
void mcp_park_allow(int allowed);

/** A request to be parked, from r->pool. On a worker. */
mcp_park_t *mcp_park_create(request_rec *r);

/**
 * On a worker: 0 if the connection is the MPM's and mcp_park_move() can take it from there; else it
 * has left the MPM for good, or the request stays on its thread.
 */
int mcp_park_is_home(const mcp_park_t *park);

/**
 * On a worker of the MPM, as the last act: go on at once on a thread beside the MPM's, which serves
 * this connection from now on at half the CPU a request, and never closes it for want of threads.
 * @return SUSPENDED
 */
int mcp_park_move(mcp_park_t *park, mcp_park_work_fn *fn, void *baton);

request_rec *mcp_park_request(const mcp_park_t *park);

/** Whether it will really leave its thread; otherwise writing to the client may block. */
int mcp_park_is_async(const mcp_park_t *park);

/** The loop that it waits on. Its timers and watches are used on the loop only. */
mcp_loop_t *mcp_park_loop(const mcp_park_t *park);

/**
 * On a worker, as the last act: leave it. @a fn runs on the loop once the worker has let go.
 * @return what the handler or mcp_park_work_fn must return: SUSPENDED, or, for a request that stays
 *         on its thread, the final status
 */
int mcp_park_leave(mcp_park_t *park, mcp_park_fn *fn, void *baton);

/**
 * On the loop, as the last act: go on on a worker. Watches and timers must have been ended.
 */
void mcp_park_work(mcp_park_t *park, mcp_park_work_fn *fn, void *baton);

/** For mcp_park_work(): run the phases from fixups on again. baton is unused. */
mcp_park_work_fn mcp_park_run_fixups;

/** For mcp_park_work(): run the handlers again. baton is unused. */
mcp_park_work_fn mcp_park_run_handler;

/** Watch the client on the loop: @a fn runs once when it has gone (EPOLLRDHUP), at most once. */
void mcp_park_on_client_gone(mcp_park_t *park, mcp_park_fn *fn, void *baton);

/** Watch the client for bytes to read (a body that is still coming), once. */
void mcp_park_on_client_readable(mcp_park_t *park, mcp_park_fn *fn, void *baton);

/** Watch the client for room to write, once. */
void mcp_park_on_client_writable(mcp_park_t *park, mcp_park_fn *fn, void *baton);

/** End what the three above started. On the loop. */
void mcp_park_unwatch_client(mcp_park_t *park);

/**
 * Write to the client through r->output_filters; empties @a bb. Does not block where the request is
 * async; otherwise it may, and has written everything when it returns.
 * @return APR_SUCCESS: taken, and maybe kept: see mcp_park_has_pending(); else the client is gone
 */
apr_status_t mcp_park_write(mcp_park_t *park, apr_bucket_brigade *bb);

/**
 * A bucket of bytes that need to last no longer than the mcp_park_write() that follows at once.
 */
apr_bucket *mcp_park_lend(mcp_park_t *park, const char *buf, apr_size_t len);

/** What is in @a bb has to wait: it gets memory of its own. */
void mcp_park_keep(mcp_park_t *park, apr_bucket_brigade *bb);

/**
 * On a worker, before a request is left for long: give memory back that the connection does not
 * need meanwhile. The request's body has been read.
 * @return APR_SUCCESS; else the client has gone, and need not be waited for
 */
apr_status_t mcp_park_settle(mcp_park_t *park);

/**
 * Write what is kept, as far as the client takes it; never blocks. On the loop or a worker.
 * @return APR_SUCCESS, also if something is still kept; else the client is gone
 */
apr_status_t mcp_park_flush(mcp_park_t *park);

/** Bytes in the client's socket that it has not acknowledged; 0 where that cannot be known. */
int mcp_park_unacknowledged(const mcp_park_t *park);

/**
 * How long the system may try to get something to the client before it takes the connection for
 * dead, as a client is that has lost its network: what is written to it only fills its socket.
 * @param patience 0: as long as the system is configured to try, a quarter of an hour by default
 */
void mcp_park_set_patience(mcp_park_t *park, apr_interval_time_t patience);

/** Whether the client's connection has ended by that. To be asked once. */
int mcp_park_has_lost_patience(mcp_park_t *park);

/** How long ago the client's system last acknowledged anything; 0 where that cannot be known. */
apr_interval_time_t mcp_park_silence(const mcp_park_t *park);

/** Something is kept for a client that does not take it yet: do not write more. */
int mcp_park_has_pending(const mcp_park_t *park);

/**
 * Tell the request when this child is to go: @a fn runs once, on the loop, at once if that is
 * already so. It may end this request, no other one. Forgotten when the request goes to a worker.
 * A request that keeps its thread is told within half a second while it waits.
 */
void mcp_park_on_drain(mcp_park_t *park, mcp_park_fn *fn, void *baton);

/** A metadata bucket that makes filters pass on what they gather, without waiting. */
apr_bucket *mcp_park_nudge(apr_bucket_alloc_t *list);

/**
 * Make the core write what it keeps for this connection, without waiting. On the thread that has
 * it.
 * @return APR_SUCCESS, also if something is still kept; else an error of the core's output filter
 */
apr_status_t mcp_park_write_kept(conn_rec *c);

/**
 * Whether bytes of this connection wait below its filters, in the socket or already in httpd's own
 * buffer. mod_ssl answers EAGAIN to a read that met a record without data (a session ticket), also
 * when more records have come.
 */
int mcp_park_has_raw_input(conn_rec *c, apr_bucket_brigade *bb);

/** This child is to go (stop or restart, graceful or not): hurry. Any thread. */
int mcp_park_is_draining(void);

#endif
