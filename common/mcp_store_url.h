/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_STORE_URL_H
#define MCP_STORE_URL_H

#include <apr_pools.h>

/* Where a store is, as the directives say it: see MCP_STORE_URL_FORMS. */

typedef enum {
    MCP_STORE_SHM,
    MCP_STORE_REDIS,     /* TCP */
    MCP_STORE_REDIS_UNIX
} mcp_store_kind_e;

typedef struct mcp_store_url_t {
    mcp_store_kind_e kind;
    apr_int64_t size;       /* N of shm:N, K, M, G understood; 0: not said */
    const char *host;       /* an IPv6 address without its brackets */
    apr_uint16_t port;
    const char *path;       /* of the unix socket */
    int db;
    const char *user;       /* NULL: none */
    const char *password;   /* NULL: none */
    const char *name;       /* for the log: without the user */
} mcp_store_url_t;

/** What is accepted, for messages. */
#define MCP_STORE_URL_FORMS "shm[:N], redis://[USER@]HOST:PORT/DB or redis+unix:PATH?db=N, then " \
    "password=file:PATH where wanted"

/**
 * Read a store's address.
 * @param text the address and, behind white space, the options
 * @param url out; its texts come from @a p
 * @param root where the path of the password file begins if it is relative, as ServerRoot; the file
 *        is read at once (as root, while httpd starts). NULL: it is not read
 * @return NULL, or what is wrong, as a phrase from @a p that never shows a password
 */
const char *mcp_store_url_parse(const char *text, const char *root, mcp_store_url_t *url,
                                apr_pool_t *p);

#endif
