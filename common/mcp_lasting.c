/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory that outlives the module. It is anonymous: no name, no stale file, and the system
 * hands it out zeroed, page by page as it is used.
 */
#include "mcp_lasting.h"

#include <apr_shm.h>
#include <stdint.h>

/* apr_shm keeps a word of its own in front of what it gives out. */
#define ALIGN 64

apr_status_t mcp_lasting_memory(void **mem, int *is_new, const char *key, apr_size_t size,
                                apr_pool_t *process)
{
    apr_shm_t *shm;
    apr_status_t rv;

    *mem = NULL;
    *is_new = 0;
    apr_pool_userdata_get(mem, key, process);
    if (*mem) {
        return APR_SUCCESS;
    }
    rv = apr_shm_create(&shm, size + ALIGN, NULL, process);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    *mem = (void *)(((uintptr_t)apr_shm_baseaddr_get(shm) + ALIGN - 1) / ALIGN * ALIGN);
    *is_new = 1;
    return apr_pool_userdata_set(*mem, key, NULL, process);
}
