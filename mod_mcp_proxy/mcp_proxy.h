/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_H
#define MCP_PROXY_H

#include <httpd.h>
#include <http_config.h>
#include <ap_mpm.h>
#include <mod_proxy.h>

#include "mcp_httpd_log.h"
#include "mcp_proxy_config.h"
#include "mcp_proxy_registry.h"
#include "mcp_proxy_session.h"
#include "mcp_proxy_shared.h"

/* What the files of mod_mcp_proxy share. Not installed. */

extern module AP_MODULE_DECLARE_DATA mcp_proxy_module;
APLOG_USE_MODULE(mcp_proxy);

#define MCP_PROXY_LBMETHOD "mcp"

/** What is known of one request, from the authorization phase on; lives in r->pool. */
typedef struct mcp_proxy_request_t {
    apr_pool_t *pool;       /* the request's */
    int in_authz;           /* the hooks around mod_authz_core are not to wrap themselves */
    int judgement_is_due;   /* a rule that names what is refused waits for a login */
    int judges_nobody;      /* rules judge although nobody has logged in */
    int unreadable;         /* the status for a body that rules cannot judge; 0: they can */
    const char *refusal;    /* what a rule has refused; NULL: nothing */
    int admitted;           /* its body, origin and headers have been looked at */
    const char *session;    /* the id that the client goes by; NULL: none */
    const char *backend_session; /* the id that the member goes by; mostly the same */
    int session_is_guess;   /* taken from the path: only counts if the table knows it */
    int session_known;      /* its member is known; with a balancer, pinned is that */
    apr_status_t found;     /* what mcp_proxy_look_up() said, once scope is set */
    int routed;             /* pre_request has been here: balancer and pinned are what they are */
    mcp_session_key_t key;  /* valid if looked_up, also if the table does not know it */
    int looked_up;          /* in the table, that is; never if MCPProxyAffinity is sealed */
    const char *looked_at;  /* where the request was to go when its session was looked up */
    const char *asked_for;  /* the URL that mod_proxy chose the first member for */
    const char *scope;      /* whose sessions these are: the balancer's or the worker's name */
    proxy_balancer *balancer;
    proxy_worker *single;   /* the one server, where there is no balancer */
    struct mcp_far_ask_t *ask; /* what MCPProxySessionStore is asked for; NULL: nothing */
    int asked;              /* ... and has been */
    proxy_worker *pinned;   /* the member that has the session */
    apr_uint64_t member;    /* hash of the member that the table names */
    const char *member_name; /* what a sealed id or a rescue calls it: that counts; or NULL */
    int abandoned;          /* the client left before there was a head to answer with */
    apr_uint32_t generation; /* how often the session had been rescued when it was looked up */
    int is_out;             /* its member is: to be rescued before anything is sent */
    int by_load;            /* choose a member by what it has to do, session or not */
    apr_array_header_t *avoided; /* of const proxy_worker *: not if there is another; or NULL */
} mcp_proxy_request_t;

mcp_proxy_request_t *mcp_proxy_request(request_rec *r);

/** Whether MCPProxy is On for this request. */
int mcp_proxy_is_on(request_rec *r);

/* mcp_proxy_admit.c: the fixups phase */
int mcp_proxy_fixups(request_rec *r);
int mcp_proxy_admit(request_rec *r, int may_suspend);

/** mcp_request_read() with what is configured here; logs what it refuses. */
int mcp_proxy_read_body(request_rec *r, int may_suspend);

/** MCP_METHOD and the like, of a request whose body has been read. */
void mcp_proxy_set_env(request_rec *r);

/* mcp_proxy_authz.c: Require mcp-tool, Require mcp-method, and the hooks around mod_authz_core */
void mcp_proxy_register_rules(apr_pool_t *p);
int mcp_proxy_check_access(request_rec *r);
int mcp_proxy_check_user(request_rec *r);

/* mcp_proxy_affinity.c: sessions of a request, and learning them */
void mcp_proxy_find_session_id(request_rec *r, mcp_proxy_request_t *q);

/**
 * Find q->session, in q->scope, as far as this httpd knows; q->ask is what other gateways may know.
 * @return APR_SUCCESS: known; APR_NOTFOUND; APR_EACCES: it, or another id in the request, belongs
 *         to another identity
 */
apr_status_t mcp_proxy_look_up(request_rec *r, mcp_proxy_request_t *q);

/** The same, once q->ask has been answered. */
apr_status_t mcp_proxy_look_up_far(request_rec *r, mcp_proxy_request_t *q);
void mcp_proxy_learn(request_rec *r, mcp_proxy_request_t *q, const char *id,
                     const proxy_worker *worker);
void mcp_proxy_forget(mcp_proxy_request_t *q);

/** A known session is at @a worker now; the client's id for it stays. */
void mcp_proxy_move(request_rec *r, mcp_proxy_request_t *q, const proxy_worker *worker);

/** The id in the data of an endpoint event, or in the path and query of its POSTs. */
const char *mcp_proxy_endpoint_id(apr_pool_t *p, const char *path, const char *query);

/* mcp_proxy_alive.c: for peers, see mcp_httpd_peers.h */
int mcp_proxy_session_lives(request_rec *r);

/* mcp_proxy_member.c: what members are called where a session is kept */

/** For this httpd's own memory: mod_proxy's hash of the member's URL. */
apr_uint64_t mcp_proxy_member_hash(const proxy_worker *worker);
proxy_worker *mcp_proxy_member_by_hash(const proxy_balancer *balancer, apr_uint64_t hash);

/**
 * For other gateways too: the member's route=, else # and that hash in 16 hexadecimal digits. As
 * long-lived as the worker, or from @a p.
 */
const char *mcp_proxy_member_name(apr_pool_t *p, const proxy_worker *worker);
void mcp_proxy_member_copy_name(const proxy_worker *worker, char *name, apr_size_t size);
int mcp_proxy_member_has_name(const proxy_worker *worker, const char *name);
proxy_worker *mcp_proxy_member_by_name(const proxy_balancer *balancer, const char *name);

/* mcp_proxy_sealed.c: MCPProxyAffinity sealed */

/** Read the keys, once the configuration has been read. @return OK, or an error that is logged */
int mcp_sealed_read_keys(apr_pool_t *pconf, server_rec *s);

/** The same keys as mcp_proxy_record.h uses them, with room for one more; none: no file. */
struct mcp_record_keys_t *mcp_sealed_record_keys(void);

/**
 * The member and the id of a sealed id, as this request's identity may use it.
 * @return APR_SUCCESS or APR_NOTFOUND
 */
apr_status_t mcp_sealed_open(request_rec *r, const char *scope, const char *text,
                             const char **member, const char **id);

/** A member's id, sealed for this request's identity; NULL, and logged, if that fails. */
const char *mcp_sealed_text(request_rec *r, const char *scope, const proxy_worker *worker,
                            const char *id);

/* mcp_proxy_lookup.c */

/** The request's session, once: sets q->scope, q->found, q->balancer. @return OK, SUSPENDED */
int mcp_proxy_find_session(request_rec *r, int may_suspend);

/** The balancer's member that a known session is at; NULL: it has been removed. */
proxy_worker *mcp_proxy_session_member(const mcp_proxy_request_t *q);
int mcp_proxy_pre_request(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                          proxy_server_conf *conf, char **url);

/* mcp_proxy_balance.c: lbmethod=mcp */
void mcp_proxy_register_lbmethod(apr_pool_t *p);
/** Whether the balancer has a usable member but @a worker that is not to be avoided. */
int mcp_proxy_has_another(const mcp_proxy_request_t *q, const proxy_worker *worker);

/* mcp_proxy_url.c: what mod_proxy_http does where it is loaded */
int mcp_proxy_canon(request_rec *r, char *url);

/* mcp_proxy_handler.c: the scheme handler, and what comes after it */
int mcp_proxy_handler(request_rec *r, proxy_worker *worker, proxy_server_conf *conf, char *url,
                      const char *proxyname, apr_port_t proxyport);
int mcp_proxy_request_status(int *status, request_rec *r);

/* mcp_proxy_check.c: what can be said before the first request */
int mcp_proxy_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

void mcp_proxy_check_capacity(apr_pool_t *ptemp, server_rec *s);

/** Whether a Location covers a path: whole segments, as httpd does it. */
int mcp_proxy_covers(const char *location, const char *path);

/** Whether MCPProxy is On for a path of the server, as far as the configuration alone tells. */
int mcp_proxy_path_is_on(const server_rec *s, const char *path);

/* mcp_proxy_advice.c: warnings; @a is_used: MCPProxy is On somewhere */
void mcp_proxy_advise(apr_pool_t *p, server_rec *s, int is_used);

/* mcp_proxy_member.c: for the pages */

/** A server that this module proxies to, as the configuration and balancer-manager know it. */
typedef struct mcp_member_t {
    proxy_worker *worker;
    const char *balancer; /* "" without one */
    const char *url;
    const char *route;    /* url where it has none */
    apr_uint64_t hash;
    int slot;             /* in mcp_proxy_shared(); -1: nothing was counted yet */
} mcp_member_t;

/** All members, each URL once: mcp_member_t, from @a p. On a worker or in the parent. */
apr_array_header_t *mcp_proxy_members(apr_pool_t *p);

/* mcp_proxy_metrics.c */
int mcp_proxy_count_request(request_rec *r);
int mcp_proxy_metrics_handler(request_rec *r);

/* mcp_proxy_streams.c: the event streams of all children, for the pages */

/** post_config: the memory they are shown in. @return why there is none */
apr_status_t mcp_streams_set_up(server_rec *s, apr_pool_t *ptemp);
mcp_registry_t *mcp_streams_registry(void);

/** In the parent: a child is gone. */
void mcp_streams_bury(pid_t pid);

/**
 * Have a stream end, whichever child has it: at once if it is between two events, else within
 * seconds. Any thread.
 * @return APR_NOTFOUND: it has ended already
 */
apr_status_t mcp_streams_end(apr_uint32_t index, apr_uint32_t serial);

/** Have a stream's child see whether its client is still there, and end it if not. Any thread. */
apr_status_t mcp_streams_doubt(apr_uint32_t index, apr_uint32_t serial);

/* mcp_proxy_status.c: the page */

/** post_config: the memory of the last minutes. @return why there is none */
apr_status_t mcp_status_set_up(server_rec *s);
int mcp_proxy_status_handler(request_rec *r);

/** Hook monitor, in the parent, every ten seconds: remember what the counters are. */
int mcp_proxy_monitor(apr_pool_t *p, server_rec *s);

/* mcp_proxy_scoreboard.c: mod_status and balancer-manager. In the parent, but for the hook. */

/** A child is gone: its share of the members' busy counts, by slot of mcp_proxy_shared(). */
void mcp_proxy_forget_busy(server_rec *s, const apr_int32_t *held);

/** Every ten seconds: take off the members' busy counts what has been wrong for that long. */
void mcp_proxy_mend_busy(server_rec *s);

/** Hook status_hook of mod_status. */
int mcp_proxy_status_hook(request_rec *r, int flags);

/* mcp_proxy_admit.c */

/** Whether this is the ServerName or a ServerAlias, never mind the port. */
int mcp_proxy_is_name_of(const server_rec *s, const char *name);

/* mcp_proxy_state.c: shared memory, and this child's part of it */
int mcp_proxy_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);
void mcp_proxy_child_init(apr_pool_t *p, server_rec *s);
void mcp_proxy_child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot,
                            mpm_child_status state);
mcp_session_table_t *mcp_proxy_sessions(void);

/** Whether MCPProxySessionStore is being asked: not while its circuit breaker is open. */
int mcp_proxy_store_is_up(void);
mcp_shared_t *mcp_proxy_shared(void);
const struct mcp_rescue_store_t *mcp_proxy_rescues(void); /* NULL: MCPProxyRescue Off */
int mcp_proxy_row(void);

#endif
