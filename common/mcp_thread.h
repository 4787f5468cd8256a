/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_THREAD_H
#define MCP_THREAD_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_time.h>
#include <pthread.h>
#include <signal.h>

/**
 * A thread in the background of a child, whose owner has work for it now and then. What the work
 * is, and the mutex that protects it, are the owner's; the functions named _locked are called with
 * that mutex. Waits go by the clock that never steps.
 */
typedef void *mcp_thread_fn(void *baton);
typedef struct mcp_thread_t {
    pthread_t id;
    mcp_thread_fn *run;
    void *baton;
    pthread_mutex_t *mutex; /* the owner's */
    pthread_cond_t wake;
    int woken;              /* the mutex */
    int stop, finished;     /* atomic */
} mcp_thread_t;

/**
 * Run @a run on a thread that takes no signals. The memory of @a t is neither moved nor freed
 * before the thread has ended: see to that with mcp_thread_end_with(), mcp_thread_stop() or, where
 * @a run is told by other means, pthread_join().
 * @param mutex what protects its work; NULL: nothing below but pthread_join() is for this thread
 * @return why there is no thread
 */
apr_status_t mcp_thread_start(mcp_thread_t *t, mcp_thread_fn *run, void *baton,
                              pthread_mutex_t *mutex);

/** Whether it has been told to end. Any thread. */
int mcp_thread_is_stopped(const mcp_thread_t *t);

/** On the thread: wait for mcp_thread_wake_locked(), which may have been before, or for the end; at
 * most for @a timeout, in microseconds. */
void mcp_thread_wait_locked(mcp_thread_t *t, apr_interval_time_t timeout);

/** Any thread: there is work. */
void mcp_thread_wake_locked(mcp_thread_t *t);

/** Any other thread, without the mutex: tell it to end, and wait until it has. */
void mcp_thread_stop(mcp_thread_t *t);

/**
 * Have it end before anything else of a pool does.
 * @param waits whether it is told and waited for with mcp_thread_stop(). If not, the process exits
 * when the pool does, in a signal handler maybe: no lock is taken then and nothing is joined, but
 * up to half a second is waited for the thread's end, since its code may be unloaded next.
 */
void mcp_thread_end_with(mcp_thread_t *t, int waits, apr_pool_t *pool);

/** Signals are the business of the server's own threads: what the calling thread starts from here
 * on takes none but those of its own crashes, until mcp_thread_restore_signals(). */
void mcp_thread_block_signals(sigset_t *before);
void mcp_thread_restore_signals(const sigset_t *before);

#endif
