/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows in sets; a digest belongs to one set and takes any row of it. One robust lock over all rows,
 * held for the walk over one set. A row's sequence moves whenever a flight ends, so "is it still
 * up" is one atomic read. A set without a free row means that the request goes alone. A free row
 * remembers whose it was: who looked before a landing and joins behind it must look again.
 */
#include "mcp_cache_flight.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "mcp_clock.h"

#define MAGIC 0x31464c43504d0001ULL
#define SETS 256
#define ROWS_OF_SET 16

typedef enum {
    FREE,
    UP,
    ALONE
} state_e;

typedef struct row_t {
    unsigned char digest[MCP_CACHE_DIGEST];
    apr_uint64_t version;
    apr_uint64_t sequence; /* atomic for readers without the lock */
    apr_time_t until;      /* of ALONE */
    apr_time_t landed;     /* of FREE: when that digest's flight ended with an answer */
    pid_t pid;             /* of the leader */
    apr_uint32_t state;
} row_t;

struct mcp_cache_flights_t {
    apr_uint64_t magic;
    pthread_mutex_t mutex;
    row_t rows[SETS * ROWS_OF_SET];
};

apr_size_t mcp_cache_flight_size(void)
{
    return sizeof(mcp_cache_flights_t);
}

mcp_cache_flights_t *mcp_cache_flight_init(void *mem)
{
    mcp_cache_flights_t *flights = mem;
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&flights->mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    flights->magic = MAGIC;
    return flights;
}

mcp_cache_flights_t *mcp_cache_flight_attach(void *mem)
{
    mcp_cache_flights_t *flights = mem;

    return flights->magic == MAGIC ? flights : NULL;
}

static void end_locked(row_t *row, state_e state)
{
    row->state = state;
    __atomic_add_fetch(&row->sequence, 1, __ATOMIC_SEQ_CST);
}

static void lock(mcp_cache_flights_t *flights)
{
    int i;

    if (pthread_mutex_lock(&flights->mutex) == EOWNERDEAD) {
        for (i = 0; i < SETS * ROWS_OF_SET; i++) {
            flights->rows[i].landed = 0;
            end_locked(&flights->rows[i], FREE);
        }
        pthread_mutex_consistent(&flights->mutex);
    }
}

static row_t *set_of(mcp_cache_flights_t *flights, const unsigned char *digest)
{
    return &flights->rows[digest[MCP_CACHE_DIGEST - 1] % SETS * ROWS_OF_SET];
}

static int is_row_of(const row_t *row, const unsigned char *digest, apr_uint64_t version)
{
    return (row->version == version || !version) && !memcmp(row->digest, digest, MCP_CACHE_DIGEST);
}

/* The row that has or had that digest; else one to take; else NULL. */
static row_t *find_locked(row_t *set, const unsigned char *digest, apr_uint64_t version)
{
    row_t *spare = NULL;
    int i;

    for (i = 0; i < ROWS_OF_SET; i++) {
        if (is_row_of(&set[i], digest, version)) {
            return &set[i];
        }
        if (set[i].state == FREE && (!spare || spare->state != FREE
                                     || set[i].landed < spare->landed)) {
            spare = &set[i];
        } else if (set[i].state == ALONE && !spare) {
            spare = &set[i];
        }
    }
    return spare;
}

static void lead_locked(row_t *row, const unsigned char *digest, apr_uint64_t version)
{
    row->version = version;
    memcpy(row->digest, digest, MCP_CACHE_DIGEST);
    row->pid = getpid();
    row->state = UP;
}

/* What a request with this digest is to do, given the row of it, or one that it may take. */
static mcp_cache_flight_e judge_locked(const row_t *row, const unsigned char *digest,
                                       apr_uint64_t version, apr_time_t looked)
{
    if (!row) {
        return MCP_CACHE_FLIGHT_ALONE;
    }
    if (!is_row_of(row, digest, version)) {
        return MCP_CACHE_FLIGHT_LEAD;
    }
    switch (row->state) {
    case UP:
        return MCP_CACHE_FLIGHT_WAIT;
    case ALONE:
        return row->until <= mcp_clock_now() ? MCP_CACHE_FLIGHT_LEAD : MCP_CACHE_FLIGHT_ALONE;
    default:
        return row->landed >= looked ? MCP_CACHE_FLIGHT_AGAIN : MCP_CACHE_FLIGHT_LEAD;
    }
}

mcp_cache_flight_e mcp_cache_flight_join(mcp_cache_flights_t *flights,
                                         const unsigned char digest[MCP_CACHE_DIGEST],
                                         apr_uint64_t version, apr_time_t looked,
                                         mcp_cache_ticket_t *ticket)
{
    mcp_cache_flight_e result;
    row_t *row;

    lock(flights);
    row = find_locked(set_of(flights, digest), digest, version);
    result = judge_locked(row, digest, version, looked);
    if (result == MCP_CACHE_FLIGHT_LEAD) {
        lead_locked(row, digest, version);
    }
    if (result == MCP_CACHE_FLIGHT_LEAD || result == MCP_CACHE_FLIGHT_WAIT) {
        ticket->row = (apr_uint32_t)(row - flights->rows);
        ticket->sequence = row->sequence;
        ticket->is_near = row->pid == getpid();
    }
    pthread_mutex_unlock(&flights->mutex);
    return result;
}

void mcp_cache_flight_land(mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket,
                           mcp_cache_landing_e how)
{
    row_t *row = &flights->rows[ticket->row];
    apr_time_t now = mcp_clock_now();

    lock(flights);
    if (row->sequence == ticket->sequence && row->state == UP) {
        row->landed = how == MCP_CACHE_LANDED_STORED ? now : 0;
        row->until = now + MCP_CACHE_FLIGHT_ALONE_FOR;
        end_locked(row, how == MCP_CACHE_LANDED_REFUSED ? ALONE : FREE);
    }
    pthread_mutex_unlock(&flights->mutex);
}

int mcp_cache_flight_is_up(const mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket)
{
    return __atomic_load_n(&flights->rows[ticket->row].sequence, __ATOMIC_SEQ_CST)
        == ticket->sequence;
}

void mcp_cache_flight_reap(mcp_cache_flights_t *flights, const mcp_cache_ticket_t *ticket)
{
    row_t *row = &flights->rows[ticket->row];

    lock(flights);
    if (row->sequence == ticket->sequence && row->state == UP && kill(row->pid, 0)
        && errno == ESRCH) {
        row->landed = 0;
        end_locked(row, FREE);
    }
    pthread_mutex_unlock(&flights->mutex);
}
