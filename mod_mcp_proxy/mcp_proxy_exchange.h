/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_EXCHANGE_H
#define MCP_PROXY_EXCHANGE_H

#include "mcp_http.h"
#include "mcp_httpd_park.h"
#include "mcp_proxy.h"
#include "mcp_proxy_backend.h"
#include "mcp_sse.h"

/*
 * One request to a backend and its response. A state machine that never blocks on the loop: it runs
 * on the worker while things go fast and on the loop while they do not. On a worker a TLS handshake
 * blocks, and so do writes of a request that keeps its thread. Lives in r->pool.
 */

typedef enum {
    MCP_X_CONNECT,   /* a connect is under way */
    MCP_X_HANDSHAKE, /* TLS is to be set up: on a worker */
    MCP_X_SEND,      /* the request is being sent */
    MCP_X_HEAD,      /* waiting for the response head */
    MCP_X_ANSWER,    /* the head is there: on a worker */
    MCP_X_BODY,      /* the body passes */
    MCP_X_END        /* over: on a worker. See failed, broken */
} mcp_exchange_state_e;

typedef struct mcp_exchange_t {
    request_rec *r;
    mcp_proxy_request_t *q;
    proxy_server_conf *conf;
    mcp_target_t target;
    char *url;                 /* as the balancer made it */
    int attempts;
    int member;                /* slot of the member whose load counts this; -1: none */
    int left;                  /* proxy_handler has seen SUSPENDED: what it does at the end is ours */

    mcp_park_t *park;
    mcp_backend_t *backend;
    mcp_exchange_state_e state;
    struct iovec request[2];   /* what is still to be sent: head, body */
    apr_size_t request_bytes;
    int was_sent;              /* a byte of the request may have reached the backend */

    int send_failed;           /* ... and no more of it can */

    char *raw;                 /* bytes of the response that were read too early, from the pool */
    apr_size_t raw_len, raw_room;
    mcp_http_head_t head;
    int heads;                 /* that have come: interim ones, then this */
    mcp_http_body_t body;
    apr_off_t bytes_in;

    int is_dry;                /* the backend has nothing more to read right now */
    int goes_on;               /* on the loop: the timer is for going on */

    int is_stream;             /* text/event-stream */
    int is_standing;           /* ... that answers a GET or a subscriptions/listen */
    int counted;               /* in the gauge of event streams */
    int head_sent;             /* to the client */
    int expects_stream;        /* a GET that accepts event streams */
    int holds_first;           /* the first event is held back: it may be an endpoint event */
    apr_time_t hold_until;     /* ... and the head with it, until then */
    char *held;                /* those bytes, from the pool */
    apr_size_t held_len, held_room;
    int learnt_endpoint;       /* the session ends with this stream */
    int leftover;              /* the backend sent more than the response */
    mcp_sse_t sse;
    apr_bucket_brigade *bb;

    int failed;                /* HTTP status of a failure before the head went out; 0: none */
    int timed_out;
    int broken;                /* the body ended before it was whole */
    int client_gone;
    int is_full;               /* refused: there are as many streams as there may be */
    int draining;              /* ended because this child is to go */
    int unacknowledged;        /* bytes that the client had not taken when it blocked */
    apr_time_t started, gone_at, last_in, last_out, blocked_since, session_held;
    apr_time_t drain_at, drain_until; /* the child goes: at an event's end, at any rate; 0: stays */
    mcp_watch_t watch;
    mcp_timer_t timer;
} mcp_exchange_t;

/** What an exchange waits for. */
typedef enum {
    MCP_X_READ,    /* bytes from the backend */
    MCP_X_WRITE,   /* room at the backend */
    MCP_X_CLIENT,  /* room at the client */
    MCP_X_LATER,   /* a moment: too many handshakes */
    MCP_X_NOW,     /* nothing: it is only others' turn */
    MCP_X_WORKER   /* a worker */
} mcp_exchange_wait_e;

/* mcp_proxy_drive.c */

/** Run an exchange that has been set up: what a handler returns, SUSPENDED too. On a worker. */
int mcp_exchange_run(mcp_exchange_t *x);

/* mcp_proxy_exchange.c: on the thread that has the exchange */

/**
 * Go on until something has to be waited for. One read of the body at a time, so that a loop serves
 * all its streams in turn; of TLS, which must be read until it is dry, a few.
 * @param on_worker whether what may block may be done now
 * @param buf a buffer of this thread's; what is passed on lies in it until the next call
 */
mcp_exchange_wait_e mcp_exchange_advance(mcp_exchange_t *x, int on_worker, char *buf,
                                         apr_size_t size);

/** Give up before the head went out. @a status is what the client would get. */
void mcp_exchange_fail(mcp_exchange_t *x, int status);

/** Put what has been gathered for the client on the wire. */
apr_status_t mcp_exchange_write_out(mcp_exchange_t *x, int on_worker);

/** Close the connection to the backend, its watch first: the descriptor's number is free then. */
void mcp_exchange_drop_backend(mcp_exchange_t *x);

/** A value of scope L for this request. */
apr_int64_t mcp_exchange_conf(const mcp_exchange_t *x, mcp_proxy_directive_e id);

/* mcp_proxy_timeout.c: on the thread that has the exchange; times are mcp_clock_now()'s */

/** When something has to be looked at, should nothing happen before. */
apr_time_t mcp_exchange_deadline(const mcp_exchange_t *x);

/** The deadline has come, or maybe another one meanwhile: see which, and do what it is for. */
void mcp_exchange_look_at_clock(mcp_exchange_t *x);

/** Something ran out: @a status is what the client gets, @a which says it in the log. */
void mcp_exchange_time_out(mcp_exchange_t *x, int status, const char *which);

/** The client does not take what is kept for it, from now on. */
void mcp_exchange_block(mcp_exchange_t *x);

/** The client took nothing for the write timeout. */
void mcp_exchange_drop_client(mcp_exchange_t *x);

/** An open stream is use of its session. */
void mcp_exchange_hold_session(mcp_exchange_t *x, apr_time_t now);

apr_interval_time_t mcp_exchange_connect_timeout(const mcp_exchange_t *x);
const char *mcp_exchange_connect_timeout_name(const mcp_exchange_t *x);

/* mcp_proxy_answer.c */

/**
 * The response head is in x->head: note what it says of a session, make it the client's. On a
 * worker. Ends the exchange, with x->is_full, where it opens a stream over the limit.
 */
void mcp_answer_head(mcp_exchange_t *x);

/**
 * Pass body bytes on. On a worker or the loop.
 * @return APR_SUCCESS: all of it is in x->bb or held back; else it is not to be passed on, and
 *         x->failed is set, or x->broken if the head has gone out
 */
apr_status_t mcp_answer_data(mcp_exchange_t *x, const char *buf, apr_size_t len);

/** The end of the body, or of a stream that broke off. On a worker. */
void mcp_answer_end(mcp_exchange_t *x);

/* mcp_proxy_handler.c */

/**
 * An exchange is over: finish it, or start again with another member. On a worker, as the last act.
 * @return what a handler returns, SUSPENDED too
 */
int mcp_exchange_finish(mcp_exchange_t *x);

#endif
