/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads in the background of a child: started without signals, woken, ended. `woken` keeps a call
 * that comes while the thread is not waiting.
 */
#include "mcp_thread.h"

#include <time.h>

/* How often, and how long each time, an exit looks whether the thread has ended. */
#define LOOKS 100
#define LOOK_EVERY_NS 5000000L

void mcp_thread_block_signals(sigset_t *before)
{
    static const int crashes[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP };
    sigset_t blocked;
    unsigned i;

    sigfillset(&blocked);
    for (i = 0; i < sizeof(crashes) / sizeof(*crashes); i++) {
        sigdelset(&blocked, crashes[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

void mcp_thread_restore_signals(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void *run(void *data)
{
    mcp_thread_t *t = data;
    void *result = t->run(t->baton);

    __atomic_store_n(&t->finished, 1, __ATOMIC_RELEASE);
    return result;
}

apr_status_t mcp_thread_start(mcp_thread_t *t, mcp_thread_fn *fn, void *baton,
                              pthread_mutex_t *mutex)
{
    pthread_condattr_t attr;
    sigset_t before;
    int error;

    *t = (mcp_thread_t){ .run = fn, .baton = baton, .mutex = mutex };
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &attr);
    pthread_condattr_destroy(&attr);
    mcp_thread_block_signals(&before);
    error = pthread_create(&t->id, NULL, run, t);
    mcp_thread_restore_signals(&before);
    return error;
}

int mcp_thread_is_stopped(const mcp_thread_t *t)
{
    return __atomic_load_n(&t->stop, __ATOMIC_ACQUIRE);
}

/* Not by mcp_clock_now(), which tests turn. */
static struct timespec from_now(apr_interval_time_t timeout)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += (time_t)apr_time_sec(timeout);
    ts.tv_nsec += (long)apr_time_usec(timeout) * 1000;
    if (ts.tv_nsec >= 1000000000L) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000L;
    }
    return ts;
}

void mcp_thread_wait_locked(mcp_thread_t *t, apr_interval_time_t timeout)
{
    struct timespec until = from_now(timeout);

    while (!t->woken && !mcp_thread_is_stopped(t)
           && pthread_cond_timedwait(&t->wake, t->mutex, &until) == 0) {
    }
    t->woken = 0;
}

void mcp_thread_wake_locked(mcp_thread_t *t)
{
    t->woken = 1;
    pthread_cond_signal(&t->wake);
}

void mcp_thread_stop(mcp_thread_t *t)
{
    pthread_mutex_lock(t->mutex);
    __atomic_store_n(&t->stop, 1, __ATOMIC_RELEASE);
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(t->mutex);
    pthread_join(t->id, NULL);
}

static apr_status_t stop(void *data)
{
    mcp_thread_stop(data);
    return APR_SUCCESS;
}

static apr_status_t stop_at_exit(void *data)
{
    mcp_thread_t *t = data;
    struct timespec pause = { .tv_nsec = LOOK_EVERY_NS };
    int i;

    __atomic_store_n(&t->stop, 1, __ATOMIC_RELEASE);
    for (i = 0; i < LOOKS && !__atomic_load_n(&t->finished, __ATOMIC_ACQUIRE); i++) {
        nanosleep(&pause, NULL);
    }
    return APR_SUCCESS;
}

void mcp_thread_end_with(mcp_thread_t *t, int waits, apr_pool_t *pool)
{
    apr_pool_pre_cleanup_register(pool, t, waits ? stop : stop_at_exit);
}
