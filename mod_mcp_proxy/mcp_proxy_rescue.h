/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_RESCUE_H
#define MCP_PROXY_RESCUE_H

#include "mcp_proxy_exchange.h"

/*
 * MCPProxyRescue: a session whose member is gone, or does not know it any more, is opened anew at a
 * member that can be used, with what its client said when it opened it; then its request goes on
 * there. The steps are requests of the same exchange, one behind the other. Nothing here is done
 * where the directive is Off. On the thread that has the exchange; what says so, on a worker.
 */

/** A session was learnt from the answer to this request: keep what it was opened with. Worker. */
void mcp_rescue_learnt(mcp_exchange_t *x);

/** The request's session is known: go by the id that it has where it was taken to, if it was. */
void mcp_rescue_follow(request_rec *r, mcp_proxy_request_t *q);

/** A stream of the session is open: what is kept of it lives at least this much longer. */
void mcp_rescue_hold(const mcp_proxy_request_t *q, apr_interval_time_t life);

/** The session is over. Worker. */
void mcp_rescue_ended(const mcp_proxy_request_t *q, apr_pool_t *p);

/** Its member is out. Whether it is worth trying to take the session to another one. */
int mcp_rescue_could(const mcp_proxy_request_t *q);

/** For such a request, in place of starting it at once: the balancer has chosen
 * a member. Worker. */
void mcp_rescue_open(mcp_exchange_t *x);

/** A whole attempt has ended, one way or another. Worker. @return 1: it goes on with the next */
int mcp_rescue_goes_on(mcp_exchange_t *x);

/** Others are about to rescue this session: look whether they are done. Worker. */
void mcp_rescue_look_again(mcp_exchange_t *x);

/** What is in flight is the gateway's own message: its answer is not the client's. */
int mcp_rescue_is_own(const mcp_exchange_t *x);

/** Where to send it: x->url, without the session that is lost where a new one is asked for. */
const char *mcp_rescue_url(const mcp_exchange_t *x);

/** Make r->method, r->headers_in and the body those of what is to be sent. */
void mcp_rescue_dress(mcp_exchange_t *x, mcp_span_t *body);

/**
 * What names events of a lost server goes no further: Last-Event-ID as @a headers, those of the
 * request, may be sent on.
 * @return @a headers, or a copy from r->pool
 */
apr_table_t *mcp_rescue_event_fields(request_rec *r, const mcp_proxy_request_t *q,
                                     apr_table_t *headers);

/** A stream begins, or goes on at another member: sets x->event_mark. */
void mcp_rescue_mark_events(mcp_exchange_t *x);

/** A response head has come. Worker. @return 1: it is not for the client */
int mcp_rescue_takes_head(mcp_exchange_t *x);

/** Bytes of a body that mcp_rescue_is_own(). APR_EOF: that was all of it */
apr_status_t mcp_rescue_take_data(mcp_exchange_t *x, const char *buf, apr_size_t len);

/** A response to the client begins: if it lists tools, x->list is set. Worker. */
void mcp_rescue_watch_list(mcp_exchange_t *x);

/** Where x->list is set: bytes of the body pass, and it has ended (worker). */
void mcp_rescue_read_along(mcp_exchange_t *x, const char *buf, apr_size_t len);
void mcp_rescue_note_list(mcp_exchange_t *x);

/** When it, or the step that it is at, has taken too long; 0: it is not at it. */
apr_time_t mcp_rescue_deadline(const mcp_exchange_t *x);

/** What ran out then, for the log. */
#define MCP_RESCUE_STEP_TIME "the time for a step of a rescue"

/** When its claim is to be renewed; 0: it has none. */
apr_time_t mcp_rescue_renewal(const mcp_exchange_t *x);

/** Renew the claim, if it is time to. Where another one has it that is waited for, or followed.
 * Worker. */
void mcp_rescue_renew_claim(mcp_exchange_t *x);

#endif
