/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_H
#define MCP_PROXY_H

#include <httpd.h>
#include <http_config.h>
#include <ap_mpm.h>
#include <mod_proxy.h>

#include "mcp_httpd_log.h"
#include "mcp_proxy_config.h"
#include "mcp_proxy_session.h"
#include "mcp_proxy_shared.h"

/* What the files of mod_mcp_proxy share. Not installed. */

extern module AP_MODULE_DECLARE_DATA mcp_proxy_module;
APLOG_USE_MODULE(mcp_proxy);

#define MCP_PROXY_LBMETHOD "mcp"

/** What is known of one request, from the fixups phase on; lives in r->pool. */
typedef struct mcp_proxy_request_t {
    int admitted;           /* its body, origin and headers have been looked at */
    const char *session;    /* the id that the client sent; NULL: none */
    int session_is_guess;   /* taken from the path: only counts if the table knows it */
    int session_known;      /* key is in the table; with a balancer, pinned is its member */
    mcp_session_key_t key;  /* valid if looked_up, also if the table does not know it */
    int looked_up;
    const char *scope;      /* whose sessions these are: the balancer's or the worker's name */
    proxy_balancer *balancer;
    proxy_worker *pinned;   /* the member that has the session */
    apr_uint64_t member;    /* hash of the member that the table names */
} mcp_proxy_request_t;

mcp_proxy_request_t *mcp_proxy_request(request_rec *r);

/** Whether MCPProxy is On for this request. */
int mcp_proxy_is_on(request_rec *r);

/* mcp_proxy_admit.c: the fixups phase */
int mcp_proxy_fixups(request_rec *r);
int mcp_proxy_admit(request_rec *r, int may_suspend);

/* mcp_proxy_affinity.c: sessions of a request, and learning them */
void mcp_proxy_find_session_id(request_rec *r, mcp_proxy_request_t *q);
apr_status_t mcp_proxy_look_up(request_rec *r, mcp_proxy_request_t *q, const char *scope);
void mcp_proxy_learn(request_rec *r, mcp_proxy_request_t *q, const char *id,
                     const proxy_worker *worker);
void mcp_proxy_forget(mcp_proxy_request_t *q);
apr_uint64_t mcp_proxy_member_hash(const proxy_worker *worker);

/** Whether the last segment of a path can be an id at all; others are never taken for one. */
int mcp_proxy_may_be_id(const char *segment);

/** The id in the data of an endpoint event, or in the path and query of its POSTs. */
const char *mcp_proxy_endpoint_id(apr_pool_t *p, const char *path, const char *query,
                                  int *is_guess);

/* mcp_proxy_balance.c: lbmethod=mcp */
int mcp_proxy_pre_request(proxy_worker **worker, proxy_balancer **balancer, request_rec *r,
                          proxy_server_conf *conf, char **url);
void mcp_proxy_register_lbmethod(apr_pool_t *p);

/* mcp_proxy_url.c: what mod_proxy_http does where it is loaded */
int mcp_proxy_canon(request_rec *r, char *url);

/* mcp_proxy_handler.c: the scheme handler, and what comes after it */
int mcp_proxy_handler(request_rec *r, proxy_worker *worker, proxy_server_conf *conf, char *url,
                      const char *proxyname, apr_port_t proxyport);
int mcp_proxy_request_status(int *status, request_rec *r);

/* mcp_proxy_check.c: what can be said before the first request */
int mcp_proxy_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);

void mcp_proxy_check_capacity(apr_pool_t *ptemp, server_rec *s);

/* mcp_proxy_state.c: shared memory, and this child's part of it */
int mcp_proxy_post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s);
void mcp_proxy_child_init(apr_pool_t *p, server_rec *s);
void mcp_proxy_child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot,
                            mpm_child_status state);
mcp_session_table_t *mcp_proxy_sessions(void);
mcp_shared_t *mcp_proxy_shared(void);
int mcp_proxy_row(void);

#endif
