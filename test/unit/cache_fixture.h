/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CACHE_FIXTURE_H
#define CACHE_FIXTURE_H

/* What tests share: a pool for each, memory that children share and a clock that stands, spans. */
#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mcp_clock.h"
#include "mcp_span.h"
#include "run_suite.h"

#define START apr_time_from_sec(1000)

static apr_pool_t *pool;
static void *memory;
static apr_size_t memory_size;

static inline void make_pool(void)
{
    apr_pool_create(&pool, NULL);
}

static inline void drop_pool(void)
{
    apr_pool_destroy(pool);
}

/* A pool, zeroed memory, and the time START until the test sets another. */
static inline void make_memory(apr_size_t size)
{
    make_pool();
    memory_size = size;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    mcp_clock_set(START);
}

static inline void drop_memory(void)
{
    mcp_clock_set(0);
    munmap(memory, memory_size);
    drop_pool();
}

static inline mcp_span_t span(const char *text)
{
    mcp_span_t s = {text, strlen(text)};

    return s;
}

#endif
