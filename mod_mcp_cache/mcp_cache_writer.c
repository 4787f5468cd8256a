/* SPDX-License-Identifier: Apache-2.0 */
/* A queue and one thread. The lock covers the queue only, never a job. */
#include "mcp_cache_writer.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "mcp_clock.h"

#define IDLE_EVERY apr_time_from_msec(500)

struct mcp_cache_writer_t {
    mcp_cache_writer_options_t options;
    pthread_t thread;
    pthread_mutex_t mutex; /* for all below */
    pthread_cond_t wake;
    mcp_cache_job_t *first, **last;
    apr_size_t bytes;
    unsigned jobs;
    int stop;
};

static void wait_locked(mcp_cache_writer_t *w)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_cond_timedwait(&w->wake, &w->mutex, &until);
}

/* The next job, maybe none; *stopped once there will be no more. */
static mcp_cache_job_t *take(mcp_cache_writer_t *w, int *stopped)
{
    mcp_cache_job_t *job;

    pthread_mutex_lock(&w->mutex);
    if (!w->first && !w->stop) {
        wait_locked(w);
    }
    job = w->first;
    if (job) {
        w->first = job->next;
        w->last = w->first ? w->last : &w->first;
        w->bytes -= job->size;
        w->jobs--;
    }
    *stopped = w->stop && !job;
    pthread_mutex_unlock(&w->mutex);
    return job;
}

static void *run(void *data)
{
    mcp_cache_writer_t *w = data;
    mcp_cache_job_t *job;
    apr_time_t idle_at = 0;
    int stopped = 0;

    while (!stopped) {
        apr_time_t now = mcp_clock_now();

        job = take(w, &stopped);
        if (job) {
            job->run(job);
        }
        if (w->options.idle && now >= idle_at) {
            w->options.idle(w->options.baton);
            idle_at = now + IDLE_EVERY;
        }
    }
    return NULL;
}

static apr_status_t stop(void *data)
{
    mcp_cache_writer_t *w = data;

    pthread_mutex_lock(&w->mutex);
    w->stop = 1;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    return APR_SUCCESS;
}

mcp_cache_writer_t *mcp_cache_writer_create(const mcp_cache_writer_options_t *options,
                                            apr_pool_t *p)
{
    mcp_cache_writer_t *w = apr_pcalloc(p, sizeof(*w));
    pthread_condattr_t attr;
    sigset_t all, before;
    int error;

    w->options = *options;
    w->last = &w->first;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    /* Signals are the server's own threads' business. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        return NULL;
    }
    apr_pool_pre_cleanup_register(p, w, stop);
    return w;
}

int mcp_cache_writer_post(mcp_cache_writer_t *writer, mcp_cache_job_t *job)
{
    int taken;

    pthread_mutex_lock(&writer->mutex);
    taken = !writer->stop && writer->jobs < writer->options.max_jobs
        && job->size <= writer->options.max_bytes - writer->bytes;
    if (taken) {
        job->next = NULL;
        *writer->last = job;
        writer->last = &job->next;
        writer->bytes += job->size;
        writer->jobs++;
        pthread_cond_signal(&writer->wake);
    }
    pthread_mutex_unlock(&writer->mutex);
    return taken;
}
