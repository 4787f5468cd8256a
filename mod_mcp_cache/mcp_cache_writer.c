/* SPDX-License-Identifier: Apache-2.0 */
/* A queue and one thread. The lock covers the queue only, never a job. */
#include "mcp_cache_writer.h"

#include <stdlib.h>

#include "mcp_clock.h"
#include "mcp_thread.h"

#define WAIT apr_time_from_msec(250)
#define IDLE_EVERY apr_time_from_msec(500)

struct mcp_cache_writer_t {
    mcp_cache_writer_options_t options;
    mcp_thread_t thread;
    pthread_mutex_t mutex; /* for all below */
    mcp_cache_job_t *first, **last;
    apr_size_t bytes;
    unsigned jobs;
};

/* The next job, maybe none; *stopped once there will be no more. */
static mcp_cache_job_t *take(mcp_cache_writer_t *w, int *stopped)
{
    mcp_cache_job_t *job;

    pthread_mutex_lock(&w->mutex);
    if (!w->first) {
        mcp_thread_wait_locked(&w->thread, WAIT);
    }
    job = w->first;
    if (job) {
        w->first = job->next;
        w->last = w->first ? w->last : &w->first;
        w->bytes -= job->size;
        w->jobs--;
    }
    *stopped = mcp_thread_is_stopped(&w->thread) && !job;
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

mcp_cache_writer_t *mcp_cache_writer_create(const mcp_cache_writer_options_t *options, int waits,
                                            apr_pool_t *exiting)
{
    mcp_cache_writer_t *w = calloc(1, sizeof(*w));

    if (!w) {
        return NULL;
    }
    w->options = *options;
    w->last = &w->first;
    pthread_mutex_init(&w->mutex, NULL);
    if (mcp_thread_start(&w->thread, run, w, &w->mutex) != APR_SUCCESS) {
        free(w);
        return NULL;
    }
    mcp_thread_end_with(&w->thread, waits, exiting);
    return w;
}

int mcp_cache_writer_post(mcp_cache_writer_t *writer, mcp_cache_job_t *job)
{
    int taken;

    pthread_mutex_lock(&writer->mutex);
    taken = !mcp_thread_is_stopped(&writer->thread) && writer->jobs < writer->options.max_jobs
        && job->size <= writer->options.max_bytes - writer->bytes;
    if (taken) {
        job->next = NULL;
        *writer->last = job;
        writer->last = &job->next;
        writer->bytes += job->size;
        writer->jobs++;
        mcp_thread_wake_locked(&writer->thread);
    }
    pthread_mutex_unlock(&writer->mutex);
    return taken;
}
