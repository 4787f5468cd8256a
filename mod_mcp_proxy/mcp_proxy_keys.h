/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_KEYS_H
#define MCP_PROXY_KEYS_H

#include <apr_pools.h>

/*
 * The file of keys that MCPProxySessionKey names. A line is one key: base64 of 32 bytes. Blank
 * lines and those that begin with # say nothing. Read in the parent process, before it gives up its
 * rights.
 */

#define MCP_KEY_BYTES 32

typedef struct mcp_keys_t {
    int count;
    unsigned char (*keys)[MCP_KEY_BYTES];
} mcp_keys_t;

/**
 * Read a file.
 * @param keys from @a p, and wiped with it, or by mcp_keys_wipe(); set if nothing is wrong
 * @return NULL, or from @a p what is wrong with the file, without its name
 */
const char *mcp_keys_read(const char *path, mcp_keys_t **keys, apr_pool_t *p);

void mcp_keys_wipe(mcp_keys_t *keys);

#endif
