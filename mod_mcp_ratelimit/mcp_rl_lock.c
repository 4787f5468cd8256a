/* SPDX-License-Identifier: Apache-2.0 */
/* Robust, process-shared mutexes with a bounded wait. */
#include "mcp_rl_lock.h"

#include <errno.h>
#include <time.h>

#define SPINS 50

apr_status_t mcp_rl_lock_init(mcp_rl_lock_t *lock)
{
    pthread_mutexattr_t attr;
    int rv = pthread_mutexattr_init(&attr);

    if (rv) {
        return rv;
    }
    rv = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    if (!rv) {
        rv = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    }
    if (!rv) {
        rv = pthread_mutex_init(lock, &attr);
    }
    pthread_mutexattr_destroy(&attr);
    return rv;
}

/* Mostly the owner is done before this thread could sleep and wake again. */
static int spin_for(mcp_rl_lock_t *lock)
{
    int rv = EBUSY, i;

    for (i = 0; rv == EBUSY && i < SPINS; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
        rv = pthread_mutex_trylock(lock);
    }
    return rv;
}

static int wait_for(mcp_rl_lock_t *lock)
{
    struct timespec until;
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    clockid_t id = CLOCK_MONOTONIC;
#else
    clockid_t id = CLOCK_REALTIME;
#endif

    clock_gettime(id, &until);
    until.tv_nsec += MCP_RL_LOCK_WAIT_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    return pthread_mutex_clocklock(lock, id, &until);
#else
    return pthread_mutex_timedlock(lock, &until);
#endif
}

apr_status_t mcp_rl_lock_take(mcp_rl_lock_t *lock, int *owner_died)
{
    int rv = pthread_mutex_trylock(lock);

    *owner_died = 0;
    if (rv == EBUSY) {
        rv = spin_for(lock);
    }
    if (rv == EBUSY) {
        rv = wait_for(lock);
    }
    if (rv == EOWNERDEAD) {
        *owner_died = 1;
        rv = pthread_mutex_consistent(lock);
    }
    return rv == ETIMEDOUT ? APR_TIMEUP : rv;
}

void mcp_rl_lock_give(mcp_rl_lock_t *lock)
{
    pthread_mutex_unlock(lock);
}
