/* SPDX-License-Identifier: Apache-2.0 */
/* The one clock that everything but log lines reads, so that tests can turn it. */
#include "mcp_clock.h"

#include <time.h>

static apr_time_t fixed_now;

apr_time_t mcp_clock_now(void)
{
    struct timespec ts;

    if (fixed_now) {
        return fixed_now;
    }
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (apr_time_t)ts.tv_sec * APR_USEC_PER_SEC + ts.tv_nsec / 1000;
}

void mcp_clock_set(apr_time_t now)
{
    fixed_now = now;
}
