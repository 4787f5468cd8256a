/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_CACHE_H
#define MCP_CACHE_H

#include <httpd.h>
#include <http_config.h>
#include <http_log.h>
#include <util_filter.h>

#include "mcp_cache_config.h"
#include "mcp_cache_flight.h"
#include "mcp_cache_shm.h"
#include "mcp_cache_store.h"
#include "mcp_cache_writer.h"
#include "mcp_httpd_log.h"
#include "mcp_httpd_park.h"
#include "mcp_httpd_request.h"

/* What the files of mod_mcp_cache share. Not installed. */

extern module AP_MODULE_DECLARE_DATA mcp_cache_module;
APLOG_USE_MODULE(mcp_cache);

/** The output filter. It never blocks, holds nothing back and changes no byte of what it reads. */
#define MCP_CACHE_FILTER "MCP_CACHE"

#define MCP_CACHE_STORE_MIN MCP_CACHE_SHM_MIN

/* What became of a request; also the value of MCP_CACHE in the environment. */
typedef enum {
    MCP_CACHE_RESULT_BYPASS, /* not for the cache */
    MCP_CACHE_RESULT_HIT,
    MCP_CACHE_RESULT_MISS,
    MCP_CACHE_RESULT_STALE,  /* an old value was served */
    MCP_CACHE_RESULTS
} mcp_cache_result_e;

/** What a request that may be answered from the cache asks for. */
typedef struct mcp_cache_ask_t {
    mcp_cache_query_t query;      /* digest[0]: who asks; digest[1]: everybody */
    unsigned char store_digest[MCP_CACHE_DIGEST]; /* where the answer goes */
    int store_is_readable;        /* that is digest[0]: whoever asks the same finds it */
    unsigned char flight_digest[MCP_CACHE_DIGEST];
    unsigned char near_digest[MCP_CACHE_DIGEST]; /* both, for what lies beside a far store */
} mcp_cache_ask_t;

/** What is known of one request; lives in r->pool. Small, since most requests only pass. */
typedef struct mcp_cache_request_t {
    request_rec *r;
    mcp_request_t *body;
    int judged;                   /* what follows is valid */
    int asks;                     /* it may be answered from the cache: what follows is valid */
    int by_hints;                 /* how long is the server's to say */
    int refresh;                  /* the client wants a new answer (Cache-Control: no-cache) */
    const mcp_rpc_t *rpc;
    const mcp_cache_tool_t *tool; /* NULL if by_hints */
    int label;                    /* for metrics */
    const char *target;           /* r->filename before a balancer puts its member there */
    const char *feed;             /* of mcp_cache_feed() */
    const char *session;          /* the id that the client sent; NULL: none, or not yet found */
    unsigned char session_digest[MCP_CACHE_DIGEST];
    mcp_cache_ask_t *ask;         /* NULL: there is no rule for it */
    mcp_cache_entry_t *old;       /* a stale value that may be served; NULL: none */
    apr_interval_time_t old_left; /* negative: stale since */
    int known;                    /* the store has answered: generations are valid */
    int leads;                    /* has a ticket that must be landed */
    int forwarded;                /* a filter has been put in, the backend is asked */
    const char *encoding;         /* the client's Accept-Encoding while the backend is asked */
    apr_uint64_t version;         /* of the generations; 0: not known */
    mcp_cache_ticket_t ticket;
    int joined;                   /* the two before and the digests of a flight are valid */
    apr_time_t wait_until;        /* 0: has not waited */
    struct mcp_cache_waiter_t *waiter;
    int is_noted;                 /* result is valid */
    mcp_cache_result_e result;
} mcp_cache_request_t;

/** What the processes of one configuration share, and what this child has. */
typedef struct mcp_cache_env_t {
    mcp_cache_store_t *store;
    mcp_cache_shm_t *near;        /* shared memory: the store itself, or beside Redis */
    mcp_cache_store_t *near_store; /* the same, as a store */
    int is_far;                   /* the store is Redis */
    mcp_cache_flights_t *flights;
    mcp_cache_writer_t *writer;
    apr_uint64_t *counts[MCP_CACHE_MAX_RULES]; /* by label, then result; atomic */
} mcp_cache_env_t;

/* mcp_cache_state.c: shared memory, and this child's part of it */
int mcp_cache_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

/* mcp_cache_advice.c: warnings about directives that do nothing */
int mcp_cache_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);
void mcp_cache_child_init(apr_pool_t *pchild, server_rec *s);
const mcp_cache_env_t *mcp_cache_env(void);

/** Whether the store is being asked: not while its circuit breaker is open. */
int mcp_cache_store_is_up(void);

/* mcp_cache_request.c: what a request asks for, and who asks */
int mcp_cache_fixups(request_rec *r);
void mcp_cache_find_peers(void);
/** The record of this request, judged. NULL: the cache has nothing to do with it. */
mcp_cache_request_t *mcp_cache_request(request_rec *r);
/** The digest of a session id that this caller uses here. */
void mcp_cache_digest_session(mcp_cache_request_t *q, const char *session,
                              unsigned char digest[MCP_CACHE_DIGEST]);
/** Find the client's session; has been done where q->asks. 0: the request has none. */
int mcp_cache_find_session(mcp_cache_request_t *q);
/** What mod_mcp_proxy knows of it: see mcp_proxy_session_lives; -1 without it. */
int mcp_cache_session_lives(const mcp_cache_request_t *q);
/** Whose notifications concern this request. */
const char *mcp_cache_feed(mcp_cache_request_t *q);
/** The tags of a notification: see mcp_cache_tag_e. */
apr_uint64_t mcp_cache_feed_tag(const char *feed, const char *what);
apr_uint64_t mcp_cache_tag(const char *kind, const char *a, const char *b);

/* mcp_cache_handler.c: before the backend is asked */
int mcp_cache_handler(request_rec *r);
/** What becomes of it; a later word counts. */
void mcp_cache_note(mcp_cache_request_t *q, mcp_cache_result_e result);
/** At its end, so that it counts once. */
int mcp_cache_count(request_rec *r);

/* mcp_cache_serve.c: a stored result becomes a response */
/**
 * Make the head of r and its body, EOS included.
 * @param left for how long the value is still fresh; negative: stale since
 */
apr_bucket_brigade *mcp_cache_respond(mcp_cache_request_t *q, const mcp_cache_entry_t *entry,
                                      apr_interval_time_t left);
/** Whether the client takes an answer that the cache can make: 'j' JSON, 's' SSE, 0 neither. */
char mcp_cache_accepted(const char *accept);

/* mcp_cache_filter.c: what the backend answers */
void mcp_cache_watch(mcp_cache_request_t *q);
void mcp_cache_insert_error_filter(request_rec *r);
void mcp_cache_register_filter(void);

/* mcp_cache_keep.c: what happens on the writer's thread */
typedef struct mcp_cache_keep_t mcp_cache_keep_t;
struct mcp_cache_capture_t;

/** Hand an answer that has been captured to the writer, which owns @a capture then. */
void mcp_cache_keep(mcp_cache_request_t *q, struct mcp_cache_capture_t *capture, int whole,
                    int mark_session, const char *headers, apr_uint32_t flags);
/** Have the writer move a generation. */
void mcp_cache_keep_change(apr_uint64_t tag);
/** Note what became of a session. An end counts on this machine before it returns. */
void mcp_cache_keep_session(const unsigned char digest[MCP_CACHE_DIGEST],
                            mcp_cache_session_e state);

/* mcp_cache_wait.c: waiting for another request's answer */
/** Leave, and run the handlers again when the flight of q->ticket has landed. */
int mcp_cache_wait(mcp_cache_request_t *q);

/** Land a flight and wake who waits for it here; any thread. */
void mcp_cache_land(const mcp_cache_ticket_t *ticket, mcp_cache_landing_e how);

/* mcp_cache_admin.c: SetHandler mcp-cache */
int mcp_cache_admin(request_rec *r);

#endif
