/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_EXCHANGE_H
#define MCP_PROXY_EXCHANGE_H

#include "mcp_http.h"
#include "mcp_httpd_park.h"
#include "mcp_proxy.h"
#include "mcp_proxy_backend.h"
#include "mcp_proxy_registry.h"
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
    MCP_X_STORE,     /* a new session is being stored, before its client hears of it */
    MCP_X_BODY,      /* the body passes */
    MCP_X_TURN,      /* waiting for an older stream of the same session to end */
    MCP_X_WAIT,      /* for another request that rescues the same session: looked at on a worker */
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
    int left;                  /* proxy_handler has seen SUSPENDED: what it does last is ours */

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
    int is_listen;             /* the request is a subscriptions/listen */
    int counted;               /* in the gauge of event streams */
    int head_sent;             /* to the client */
    int expects_stream;        /* a GET that accepts event streams */
    int holds_first;           /* the first event is held back: it may be an endpoint event */
    apr_time_t hold_until;     /* ... and the head with it, until then */
    char *held;                /* those bytes, from the pool */
    apr_size_t held_len, held_room;
    int learnt_endpoint;       /* the session ends with this stream */
    struct mcp_tool_list_t *list; /* of what passes; NULL: it is no list of tools */
    struct mcp_rescue_t *rescue; /* NULL: nothing has gone wrong so far */
    int session_gone;          /* the member does not know it, and the client has not been told */
    int session_lost;          /* it could not be rescued: the client gets 404 */
    int answer_lost;           /* ... with the server that was about to send it, within a stream */
    int leftover;              /* the backend sent more than the response */
    mcp_sse_t sse;
    const char *event_mark;    /* goes before the id of each event; NULL: nothing does */
    mcp_sse_ids_t ids;         /* where the stream is, for that */
    apr_bucket_brigade *bb;

    struct mcp_far_put_t *put; /* MCP_X_STORE: on its way */
    mcp_exchange_state_e after_store;

    int failed;                /* HTTP status of a failure before the head went out; 0: none */
    int timed_out;
    int broken;                /* the body ended before it was whole */
    int client_gone;           /* since gone_at */
    int is_full;               /* refused: there are as many streams as there may be */
    int draining;              /* ended because this child is to go */
    int closed_here;           /* a standing stream that the gateway ends, between two events */
    int unacknowledged;        /* bytes that the client had not taken when it blocked */
    apr_time_t started, gone_at, last_in, last_out, blocked_since, session_held;
    apr_time_t opened;         /* is_stream: since then */
    apr_time_t drain_at, drain_until; /* the child goes: at an event's end, at any rate; 0: stays */
    mcp_watch_t watch;
    mcp_timer_t timer;

    mcp_registry_slot_t *slot; /* is_stream: where it is shown; NULL: nowhere */
    int is_to_end;             /* somebody asked for that */
    int is_second;             /* refused: its session has a standing stream */
    struct mcp_single_t *single; /* NULL: its session may have other streams */
    apr_time_t doubted_since;  /* whether the client is there; 0: nobody asks */
    struct mcp_exchange_t *next_kept, **kept_by; /* the streams of a loop */
    struct mcp_keeper_t *own_keeper;
} mcp_exchange_t;

/** What an exchange waits for. */
typedef enum {
    MCP_X_READ,    /* bytes from the backend, or from the store */
    MCP_X_WRITE,   /* room at the backend, or at the store */
    MCP_X_CLIENT,  /* room at the client */
    MCP_X_LATER,   /* a moment: too many handshakes */
    MCP_X_NOW,     /* nothing: it is only others' turn */
    MCP_X_WORKER   /* a worker */
} mcp_exchange_wait_e;

/* mcp_proxy_drive.c */

/** Run an exchange that has been set up: what a handler returns, SUSPENDED too. On a worker. */
int mcp_exchange_run(mcp_exchange_t *x);

/** Look at the clock at that time, if that is not to be done before anyway. On the loop. */
void mcp_exchange_wake(mcp_exchange_t *x, apr_time_t when);

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

/** The client has left, as was noticed at @a when. */
void mcp_exchange_client_left(mcp_exchange_t *x, apr_time_t when);

/** Put what has been gathered for the client on the wire. */
apr_status_t mcp_exchange_write_out(mcp_exchange_t *x, int on_worker);

/** The descriptor that MCP_X_READ and MCP_X_WRITE are about. */
int mcp_exchange_fd(const mcp_exchange_t *x);

/**
 * A session has been learnt: store it where other gateways look, before what is in x->bb, or is
 * about to be, goes to the client.
 */
void mcp_exchange_store(mcp_exchange_t *x);

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

/** End an event stream now: between two events if it can be, else it breaks off. */
void mcp_exchange_close_stream(mcp_exchange_t *x);

/**
 * Find out whether the client of an event stream is still there. On the loop.
 * @return when to look at the clock
 */
apr_time_t mcp_exchange_doubt_client(mcp_exchange_t *x);

/** The client does not take what is kept for it, from now on. */
void mcp_exchange_block(mcp_exchange_t *x);

/** The client took nothing for the write timeout. */
void mcp_exchange_drop_client(mcp_exchange_t *x);

/** An open stream is use of its session. */
void mcp_exchange_hold_session(mcp_exchange_t *x, apr_time_t now);

apr_interval_time_t mcp_exchange_connect_timeout(const mcp_exchange_t *x);
const char *mcp_exchange_connect_timeout_name(const mcp_exchange_t *x);

/* mcp_proxy_single.c: MCPProxySessionStreams */

/**
 * Before a GET is sent: may its session have another stream?
 * @return OK, maybe with x->state MCP_X_TURN later; or the status of an answer described with
 *         mcp_error_set()
 */
int mcp_single_ask(mcp_exchange_t *x);

/** The exchange has been started: an older stream has to end first. */
void mcp_single_begin(mcp_exchange_t *x);

/** MCP_X_TURN: go on if the older streams have ended, or have had their time. */
void mcp_single_look_again(mcp_exchange_t *x);

/** Its stream is in the registry: of two that came at once, one stays. Only with x->single. */
void mcp_single_opened(mcp_exchange_t *x);

/** What the registry has of its session. Only with x->single. */
apr_uint64_t mcp_single_session(const mcp_exchange_t *x);

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

/** Whether a Content-Type, or NULL, is that of an event stream. */
int mcp_answer_is_stream(const char *type);

/* mcp_proxy_streams.c: x->is_stream, on the thread that has the exchange */

/** It has opened, or has ended: it is shown to operators meanwhile. */
void mcp_streams_open(mcp_exchange_t *x);
void mcp_streams_close(mcp_exchange_t *x);

/** It goes on at another member. Its place stays, and with it what others want of it. */
void mcp_streams_move(mcp_exchange_t *x);

/** Bytes have gone out of which this thread could know since @a since. */
void mcp_streams_note(mcp_exchange_t *x, apr_time_t since, apr_time_t now);

/** It comes to its loop, or leaves it; without a slot nothing happens. On the loop. */
void mcp_streams_enter(mcp_exchange_t *x);
void mcp_streams_leave(mcp_exchange_t *x);

/* mcp_proxy_handler.c */

/**
 * Start an attempt towards x->target.worker, from x->url: on an idle connection, or a new one. What
 * an earlier attempt left in x is gone. On a worker.
 * @return OK, or the status of a member that cannot even be asked
 */
int mcp_exchange_start(mcp_exchange_t *x);

/** Another member, or the session's own: x->target.worker and x->url. @return OK, or a status */
int mcp_exchange_ask_balancer(mcp_exchange_t *x);

/** An attempt is over: its connection goes back or is closed, its member has one less to do. */
void mcp_exchange_let_go(mcp_exchange_t *x);

/** The member could not be reached: in error, for mod_proxy. */
void mcp_exchange_mark_member(mcp_exchange_t *x);

/**
 * An exchange is over: finish it, or start again with another member. On a worker, as the last act.
 * @return what a handler returns, SUSPENDED too
 */
int mcp_exchange_finish(mcp_exchange_t *x);

#endif
