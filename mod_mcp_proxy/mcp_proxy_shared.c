/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child adds to its own row and to the sum; when it is gone the parent takes the row's part off
 * again. Both are plain atomic additions: a child killed between the two leaves the sum off by one
 * for each of its threads that was there.
 */
#include "mcp_proxy_shared.h"

#include <string.h>

typedef struct row_t {
    apr_int64_t pid; /* 0: free */
    apr_int64_t values[MCP_SHARED_VALUES];
    apr_int32_t load[MCP_SHARED_MEMBERS];
} row_t;

struct mcp_shared_t {
    apr_int64_t values[MCP_SHARED_VALUES];
    apr_uint64_t members[MCP_SHARED_MEMBERS]; /* 0: free */
    apr_int32_t load[MCP_SHARED_MEMBERS];
    row_t rows[MCP_SHARED_CHILDREN];
};

apr_size_t mcp_shared_size(void)
{
    return sizeof(mcp_shared_t);
}

mcp_shared_t *mcp_shared_init(void *mem)
{
    return mem;
}

int mcp_shared_claim(mcp_shared_t *shared, pid_t pid)
{
    int i;

    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        apr_int64_t none = 0;

        if (__atomic_compare_exchange_n(&shared->rows[i].pid, &none, (apr_int64_t)pid, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            return i;
        }
    }
    return -1;
}

void mcp_shared_bury(mcp_shared_t *shared, pid_t pid)
{
    row_t *row = NULL;
    int i;

    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        if (__atomic_load_n(&shared->rows[i].pid, __ATOMIC_ACQUIRE) == (apr_int64_t)pid) {
            row = &shared->rows[i];
            break;
        }
    }
    if (!row) {
        return;
    }
    for (i = 0; i < MCP_SHARED_GAUGES; i++) {
        __atomic_fetch_sub(&shared->values[i], row->values[i], __ATOMIC_RELAXED);
    }
    for (i = 0; i < MCP_SHARED_MEMBERS; i++) {
        if (row->load[i]) {
            __atomic_fetch_sub(&shared->load[i], row->load[i], __ATOMIC_RELAXED);
        }
    }
    memset(row->values, 0, sizeof(row->values));
    memset(row->load, 0, sizeof(row->load));
    __atomic_store_n(&row->pid, 0, __ATOMIC_RELEASE);
}

int mcp_shared_member(mcp_shared_t *shared, apr_uint64_t hash)
{
    unsigned start = (unsigned)(hash % MCP_SHARED_MEMBERS), i;

    hash = hash ? hash : 1;
    for (i = 0; i < MCP_SHARED_MEMBERS; i++) {
        unsigned slot = (start + i) % MCP_SHARED_MEMBERS;
        apr_uint64_t there = 0;

        if (__atomic_compare_exchange_n(&shared->members[slot], &there, hash, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
            || there == hash) {
            return (int)slot;
        }
    }
    return -1;
}

void mcp_shared_load_add(mcp_shared_t *shared, int row, int member, int delta)
{
    if (row >= 0 && member >= 0) {
        __atomic_fetch_add(&shared->rows[row].load[member], delta, __ATOMIC_RELAXED);
        __atomic_fetch_add(&shared->load[member], delta, __ATOMIC_RELAXED);
    }
}

int mcp_shared_load(const mcp_shared_t *shared, int member)
{
    int load = member < 0 ? 0 : __atomic_load_n(&shared->load[member], __ATOMIC_RELAXED);

    return load > 0 ? load : 0;
}

apr_int64_t mcp_shared_add(mcp_shared_t *shared, int row, mcp_shared_value_e value,
                           apr_int64_t delta)
{
    if (row >= 0) {
        __atomic_fetch_add(&shared->rows[row].values[value], delta, __ATOMIC_RELAXED);
    }
    return __atomic_add_fetch(&shared->values[value], delta, __ATOMIC_RELAXED);
}

apr_int64_t mcp_shared_get(const mcp_shared_t *shared, mcp_shared_value_e value)
{
    return __atomic_load_n(&shared->values[value], __ATOMIC_RELAXED);
}
