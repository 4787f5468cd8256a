/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_LASTING_H
#define MCP_LASTING_H

#include <apr_pools.h>

/**
 * Memory that all children share and that survives graceful restarts, which unload the module: it
 * hangs on the process pool under @a key, which names the layout's version (and size, where that
 * can change). In the parent, from post_config.
 * @param mem out: zeroed where it is new; aligned to a cache line of 64 bytes
 * @param is_new out: whether it was made now
 * @param process the pool that lasts as long as the parent process
 * @return why there is none
 */
apr_status_t mcp_lasting_memory(void **mem, int *is_new, const char *key, apr_size_t size,
                                apr_pool_t *process);

#endif
