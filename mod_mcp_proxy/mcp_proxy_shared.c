/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child adds to its own row; gauges, which limits ask for, to a sum as well, from which the
 * parent takes the row's part when the child is gone. Both are plain atomic additions: a child
 * killed between the two leaves the sum off by one for each of its threads that was there.
 */
#include "mcp_proxy_shared.h"

#include <string.h>

#include "mcp_proxy_label.h"

#define CACHE_LINE 64
/* Children that found no row share one, of which nothing is ever taken off. */
#define ROWS (MCP_SHARED_CHILDREN + 1)
#define NOBODY MCP_SHARED_CHILDREN

#define MS(n) ((apr_interval_time_t)(n) * 1000)
#define S(n) MS((n) * 1000)

const apr_interval_time_t mcp_shared_bounds[MCP_SHARED_TIMES][MCP_SHARED_BUCKETS] = {
    { MS(100), S(1), S(5), S(15), S(60), S(300), S(900), S(3600), S(14400), S(43200), S(86400) },
    { 100, 250, 500, MS(1), MS(5), MS(10), MS(50), MS(100), MS(500), S(1), S(5) },
    { 50, 100, 250, 500, MS(1), MS(2), MS(5), MS(10), MS(25), MS(100), MS(500) },
    { 50, 100, 250, 500, MS(1), MS(2), MS(5), MS(10), MS(25), MS(100), MS(500) }
};

typedef struct row_t {
    apr_int64_t pid; /* 0: free */
    apr_int64_t values[MCP_SHARED_VALUES];
    mcp_shared_times_t times[MCP_SHARED_TIMES];
    apr_int32_t load[MCP_SHARED_MEMBERS];
    apr_uint64_t calls[MCP_SHARED_MEMBERS];
    apr_uint64_t requests[MCP_LABEL_METHODS][MCP_LABEL_STATUSES];
} __attribute__((aligned(CACHE_LINE))) row_t;

struct mcp_shared_t {
    apr_int64_t sums[MCP_SHARED_GAUGES];
    apr_int32_t rows_used; /* rows from this one on were never claimed */
    apr_uint64_t members[MCP_SHARED_MEMBERS]; /* 0: free */
    apr_int32_t load[MCP_SHARED_MEMBERS];
    row_t rows[ROWS];
};

apr_size_t mcp_shared_size(void)
{
    return sizeof(mcp_shared_t);
}

mcp_shared_t *mcp_shared_init(void *mem)
{
    return mem;
}

static void note_use(mcp_shared_t *shared, int row)
{
    apr_int32_t used = __atomic_load_n(&shared->rows_used, __ATOMIC_RELAXED);

    while (used <= row
           && !__atomic_compare_exchange_n(&shared->rows_used, &used, row + 1, 0, __ATOMIC_RELAXED,
                                           __ATOMIC_RELAXED)) {
    }
}

int mcp_shared_claim(mcp_shared_t *shared, pid_t pid)
{
    int i;

    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        apr_int64_t none = 0;

        if (__atomic_compare_exchange_n(&shared->rows[i].pid, &none, (apr_int64_t)pid, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            note_use(shared, i);
            return i;
        }
    }
    note_use(shared, NOBODY);
    return -1;
}

int mcp_shared_bury(mcp_shared_t *shared, pid_t pid, apr_int32_t *held)
{
    row_t *row = NULL;
    int i, any = 0;

    memset(held, 0, sizeof(*held) * MCP_SHARED_MEMBERS);
    for (i = 0; i < MCP_SHARED_CHILDREN; i++) {
        if (__atomic_load_n(&shared->rows[i].pid, __ATOMIC_ACQUIRE) == (apr_int64_t)pid) {
            row = &shared->rows[i];
            break;
        }
    }
    if (!row) {
        return 0;
    }
    for (i = 0; i < MCP_SHARED_GAUGES; i++) {
        __atomic_fetch_sub(&shared->sums[i], row->values[i], __ATOMIC_RELAXED);
        row->values[i] = 0;
    }
    for (i = 0; i < MCP_SHARED_MEMBERS; i++) {
        if (row->load[i]) {
            held[i] = row->load[i];
            any = 1;
            __atomic_fetch_sub(&shared->load[i], row->load[i], __ATOMIC_RELAXED);
        }
    }
    memset(row->load, 0, sizeof(row->load));
    __atomic_store_n(&row->pid, 0, __ATOMIC_RELEASE);
    return any;
}

int mcp_shared_member(mcp_shared_t *shared, apr_uint64_t hash)
{
    unsigned start = (unsigned)(hash % MCP_SHARED_MEMBERS), i;

    hash = hash ? hash : 1;
    for (i = 0; i < MCP_SHARED_MEMBERS; i++) {
        unsigned slot = (start + i) % MCP_SHARED_MEMBERS;
        apr_uint64_t there = __atomic_load_n(&shared->members[slot], __ATOMIC_ACQUIRE);

        if (there == hash || (!there
            && __atomic_compare_exchange_n(&shared->members[slot], &there, hash, 0,
                                           __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            || there == hash) {
            return (int)slot;
        }
    }
    return -1;
}

int mcp_shared_find_member(const mcp_shared_t *shared, apr_uint64_t hash)
{
    unsigned start = (unsigned)(hash % MCP_SHARED_MEMBERS), i;

    hash = hash ? hash : 1;
    for (i = 0; i < MCP_SHARED_MEMBERS; i++) {
        unsigned slot = (start + i) % MCP_SHARED_MEMBERS;
        apr_uint64_t there = __atomic_load_n(&shared->members[slot], __ATOMIC_ACQUIRE);

        if (there == hash) {
            return (int)slot;
        }
        if (!there) {
            return -1;
        }
    }
    return -1;
}

void mcp_shared_load_add(mcp_shared_t *shared, int row, int member, int delta)
{
    if (row >= 0 && member >= 0) {
        __atomic_fetch_add(&shared->rows[row].load[member], delta, __ATOMIC_RELAXED);
        __atomic_fetch_add(&shared->load[member], delta, __ATOMIC_RELAXED);
        if (delta > 0) {
            __atomic_fetch_add(&shared->rows[row].calls[member], (apr_uint64_t)delta,
                               __ATOMIC_RELAXED);
        }
    }
}

int mcp_shared_load(const mcp_shared_t *shared, int member)
{
    int load = member < 0 ? 0 : __atomic_load_n(&shared->load[member], __ATOMIC_RELAXED);

    return load > 0 ? load : 0;
}

static row_t *row_of(mcp_shared_t *shared, int row)
{
    return &shared->rows[row >= 0 ? row : NOBODY];
}

/* A sum over what stands in the same place of each row. */
static apr_uint64_t sum_of(const mcp_shared_t *shared, const apr_uint64_t *in_first_row)
{
    int i, used = __atomic_load_n(&shared->rows_used, __ATOMIC_RELAXED);
    apr_uint64_t sum = 0;

    for (i = 0; i < used; i++) {
        sum += __atomic_load_n((const apr_uint64_t *)((const char *)in_first_row
                                                      + (apr_size_t)i * sizeof(row_t)),
                               __ATOMIC_RELAXED);
    }
    return sum;
}

apr_uint64_t mcp_shared_calls(const mcp_shared_t *shared, int member)
{
    return member < 0 ? 0 : sum_of(shared, &shared->rows[0].calls[member]);
}

apr_int64_t mcp_shared_add(mcp_shared_t *shared, int row, mcp_shared_value_e value,
                           apr_int64_t delta)
{
    __atomic_fetch_add(&row_of(shared, row)->values[value], delta, __ATOMIC_RELAXED);
    return value < MCP_SHARED_GAUGES
        ? __atomic_add_fetch(&shared->sums[value], delta, __ATOMIC_RELAXED) : 0;
}

apr_int64_t mcp_shared_get(const mcp_shared_t *shared, mcp_shared_value_e value)
{
    return value < MCP_SHARED_GAUGES
        ? __atomic_load_n(&shared->sums[value], __ATOMIC_RELAXED)
        : (apr_int64_t)sum_of(shared, (const apr_uint64_t *)&shared->rows[0].values[value]);
}

void mcp_shared_request_add(mcp_shared_t *shared, int row, int method, int status)
{
    __atomic_fetch_add(&row_of(shared, row)->requests[method][status], 1, __ATOMIC_RELAXED);
}

apr_uint64_t mcp_shared_requests(const mcp_shared_t *shared, int method, int status)
{
    return sum_of(shared, &shared->rows[0].requests[method][status]);
}

apr_uint64_t mcp_shared_all_requests(const mcp_shared_t *shared)
{
    apr_uint64_t sum = 0;
    int method, status;

    for (method = 0; method < MCP_LABEL_METHODS; method++) {
        for (status = 0; status < MCP_LABEL_STATUSES; status++) {
            sum += mcp_shared_requests(shared, method, status);
        }
    }
    return sum;
}

void mcp_shared_time_add(mcp_shared_t *shared, int row, mcp_shared_time_e which,
                         apr_interval_time_t took)
{
    mcp_shared_times_t *times = &row_of(shared, row)->times[which];
    int i;

    took = took > 0 ? took : 0;
    for (i = 0; i < MCP_SHARED_BUCKETS - 1 && took > mcp_shared_bounds[which][i]; i++) {
    }
    __atomic_fetch_add(&times->sum, (apr_uint64_t)took, __ATOMIC_RELAXED);
    __atomic_fetch_add(&times->count[i], 1, __ATOMIC_RELAXED);
}

void mcp_shared_times(const mcp_shared_t *shared, mcp_shared_time_e which,
                      mcp_shared_times_t *sums)
{
    const mcp_shared_times_t *first = &shared->rows[0].times[which];
    int i;

    for (i = 0; i < MCP_SHARED_BUCKETS; i++) {
        sums->count[i] = sum_of(shared, &first->count[i]);
    }
    sums->sum = sum_of(shared, &first->sum);
}
