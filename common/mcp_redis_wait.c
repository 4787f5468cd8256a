/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step may end the job, and with it give its descriptor to somebody else or close it: the watch
 * ends before each.
 */
#include "mcp_redis_wait.h"

#include <poll.h>
#include <sys/epoll.h>

static void go_on(mcp_redis_wait_t *wait, apr_status_t rv)
{
    if (rv == APR_EAGAIN) {
        unsigned events = wait->job->events & POLLOUT ? EPOLLOUT : EPOLLIN;

        if (mcp_watch_start(wait->loop, &wait->watch, wait->job->fd, events) == APR_SUCCESS) {
            return;
        }
        rv = mcp_redis_job_cancel(wait->redis, wait->job);
    }
    mcp_timer_stop(wait->loop, &wait->timer);
    wait->done(wait->baton, rv);
}

static void on_event(mcp_watch_t *watch, unsigned events)
{
    mcp_redis_wait_t *wait = watch->baton;

    mcp_watch_stop(wait->loop, watch);
    go_on(wait, mcp_redis_job_step(wait->redis, wait->job));
}

static void on_deadline(mcp_timer_t *timer)
{
    mcp_redis_wait_t *wait = timer->baton;

    mcp_watch_stop(wait->loop, &wait->watch);
    go_on(wait, mcp_redis_job_cancel(wait->redis, wait->job));
}

void mcp_redis_wait_start(mcp_redis_wait_t *wait, mcp_loop_t *loop)
{
    wait->loop = loop;
    wait->watch = (mcp_watch_t){ .fn = on_event, .baton = wait };
    wait->timer = (mcp_timer_t){ .fn = on_deadline, .baton = wait };
    mcp_timer_start(loop, &wait->timer, wait->deadline);
    go_on(wait, APR_EAGAIN);
}
