/* SPDX-License-Identifier: Apache-2.0 */
/* What can be said of a configuration before the first request. */
#include "mcp_proxy.h"

int mcp_proxy_check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    return OK;
}
