/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CACHE_FIXTURE_H
#define CACHE_FIXTURE_H

/* What the tests of the cache share: a pool for each test, spans of literals. */
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_span.h"
#include "run_suite.h"

static apr_pool_t *pool;

static inline void make_pool(void)
{
    apr_pool_create(&pool, NULL);
}

static inline void drop_pool(void)
{
    apr_pool_destroy(pool);
}

static inline mcp_span_t span(const char *text)
{
    mcp_span_t s = {text, strlen(text)};

    return s;
}

#endif
