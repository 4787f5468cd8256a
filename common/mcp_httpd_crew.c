/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads on one epoll. A descriptor is in it with EPOLLONESHOT, so exactly one thread is told; it
 * takes the wait out of its bucket and serves it. Invariants: a wait is in a bucket from before it
 * is armed until a thread has it; whoever sweeps touches only waits that are in a bucket, under the
 * lock, and never frees one but shuts its socket down, which wakes a thread as data would. The lock
 * guards the buckets, the jobs and the flags. It is held for a few instructions, but for a walk
 * along one bucket each second, and along all in mcp_crew_hurry(), once in a child's life.
 *
 * Few threads take turns, since epoll wakes a sleeping one for each descriptor although one that
 * runs would come by soon: sixteen of them cost a small request half as much CPU again as four. The
 * others stand by. When nobody is left to take what comes, the foreman looks who is stuck in what
 * blocks, and lets as many of those who stand by take part.
 */
#include "mcp_httpd_crew.h"

#include <httpd.h>

#include <apr_thread_proc.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mcp_clock.h"
#include "mcp_thread.h"

#define TURNS_PER_CORE 2
/* How often the foreman looks, and for how long a thread is busy until it counts as stuck. */
#define LOOK_EVERY_NS (2 * 1000 * 1000)
#define STUCK_AFTER apr_time_from_msec(2)
#define BUCKETS 512u /* of a second each; later ones share, and are looked at once a turn */

typedef struct member_t {
    mcp_crew_t *crew;
    apr_thread_t *thread;
    _Atomic apr_time_t busy_since; /* 0: it waits for something to do */
} member_t;

struct mcp_crew_t {
    int epoll_fd, wake_fd, sweep_fd;
    atomic_int idle;
    int count;
    member_t *members;
    int core;                      /* how many take turns when none is stuck */
    atomic_int turns, most_turns;  /* how many take turns, and how many may */
    pthread_t foreman;
    sem_t alarm;
    atomic_int alarmed;
    pthread_mutex_t lock;
    pthread_cond_t stand_by;
    mcp_crew_job_t *jobs, **jobs_end;
    mcp_crew_wait_t *buckets[BUCKETS];
    apr_int64_t swept; /* seconds up to this one are done */
    int hurried, stopped;
    apr_interval_time_t grace; /* hurried: how long a wait that may hurry lasts */
};

static void wake(mcp_crew_t *crew)
{
    const apr_uint64_t one = 1;

    while (write(crew->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

/* ---- waits ---- */

/* What has bytes to read is about to be served: a thread was told of it. */
static int is_served(const mcp_crew_wait_t *wait)
{
    int bytes = 0;

    return !(wait->events & EPOLLOUT) && ioctl(wait->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

static void expire(mcp_crew_wait_t *wait)
{
    if (!wait->is_late && !is_served(wait)) {
        wait->is_late = 1;
        shutdown(wait->fd, wait->events & EPOLLOUT ? SHUT_RDWR : SHUT_RD);
    }
}

static void unlink_wait_locked(mcp_crew_wait_t *wait)
{
    *wait->prev = wait->next;
    if (wait->next) {
        wait->next->prev = wait->prev;
    }
    wait->prev = NULL;
}

static void link_wait_locked(mcp_crew_t *crew, mcp_crew_wait_t *wait)
{
    wait->prev = &crew->buckets[(apr_uint64_t)(wait->until / APR_USEC_PER_SEC + 1) % BUCKETS];
    wait->next = *wait->prev;
    if (wait->next) {
        wait->next->prev = &wait->next;
    }
    *wait->prev = wait;
}

/* One that may hurry ends when its grace does; sweep() ends what is left of it then. */
static void hasten_locked(mcp_crew_t *crew, mcp_crew_wait_t *wait, apr_time_t now)
{
    apr_time_t end = wait->since + crew->grace;

    if (end <= now) {
        expire(wait);
    }
    else if (end < wait->until) {
        unlink_wait_locked(wait);
        wait->until = end;
        link_wait_locked(crew, wait);
    }
}

apr_status_t mcp_crew_wait(mcp_crew_t *crew, mcp_crew_wait_t *wait, apr_time_t until)
{
    struct epoll_event event = { .events = wait->events | EPOLLONESHOT, .data.ptr = wait };
    int op = wait->is_known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    apr_status_t rv;

    wait->since = mcp_clock_now();
    wait->until = until;
    wait->is_late = 0;
    wait->is_known = 1;
    pthread_mutex_lock(&crew->lock);
    link_wait_locked(crew, wait);
    if (crew->hurried && wait->may_hurry) {
        hasten_locked(crew, wait, wait->since);
    }
    pthread_mutex_unlock(&crew->lock);
    if (epoll_ctl(crew->epoll_fd, op, wait->fd, &event) == 0) {
        return APR_SUCCESS;
    }
    rv = errno;
    pthread_mutex_lock(&crew->lock);
    unlink_wait_locked(wait);
    pthread_mutex_unlock(&crew->lock);
    wait->is_known = op == EPOLL_CTL_MOD;
    return rv;
}

static void serve(mcp_crew_t *crew, mcp_crew_wait_t *wait)
{
    int is_late;

    pthread_mutex_lock(&crew->lock);
    unlink_wait_locked(wait);
    is_late = wait->is_late;
    pthread_mutex_unlock(&crew->lock);
    wait->fn(wait->baton, is_late);
}

static void sweep(mcp_crew_t *crew)
{
    apr_time_t now = mcp_clock_now();
    apr_int64_t second = now / APR_USEC_PER_SEC;
    apr_uint64_t count;
    mcp_crew_wait_t *wait;

    if (read(crew->sweep_fd, &count, sizeof(count)) < 0) {
        return;
    }
    pthread_mutex_lock(&crew->lock);
    while (crew->swept < second) {
        wait = crew->buckets[(apr_uint64_t)++crew->swept % BUCKETS];
        for (; wait; wait = wait->next) {
            if (wait->until <= now) {
                expire(wait);
            }
        }
    }
    pthread_mutex_unlock(&crew->lock);
}

void mcp_crew_hurry(mcp_crew_t *crew, apr_interval_time_t grace)
{
    apr_time_t now = mcp_clock_now();
    mcp_crew_wait_t *wait, *next;
    unsigned i;

    pthread_mutex_lock(&crew->lock);
    crew->hurried = 1;
    crew->grace = grace;
    for (i = 0; i < BUCKETS; i++) {
        for (wait = crew->buckets[i]; wait; wait = next) {
            next = wait->next;
            if (wait->may_hurry) {
                hasten_locked(crew, wait, now);
            }
        }
    }
    pthread_mutex_unlock(&crew->lock);
}

/* ---- jobs ---- */

void mcp_crew_run(mcp_crew_t *crew, mcp_crew_job_t *job)
{
    job->next = NULL;
    pthread_mutex_lock(&crew->lock);
    *crew->jobs_end = job;
    crew->jobs_end = &job->next;
    pthread_mutex_unlock(&crew->lock);
    wake(crew);
}

/*
 * Wake-ups are edge-triggered and may merge: a thread that leaves a job behind passes them on.
 * Returns whether the thread is to end.
 */
static int take_job(mcp_crew_t *crew)
{
    mcp_crew_job_t *job;
    int is_end, is_more;

    pthread_mutex_lock(&crew->lock);
    job = crew->jobs;
    if (job) {
        crew->jobs = job->next;
        if (!crew->jobs) {
            crew->jobs_end = &crew->jobs;
        }
    }
    is_end = crew->stopped;
    is_more = crew->jobs || is_end;
    pthread_mutex_unlock(&crew->lock);
    if (is_more) {
        wake(crew);
    }
    if (job) {
        job->fn(job->baton);
    }
    return is_end && !job;
}

/* ---- threads ---- */

/* Whether this thread takes turns; it stands by until it does, or until the crew ends. */
static void wait_for_turn(mcp_crew_t *crew)
{
    if (atomic_load(&crew->turns) <= atomic_load(&crew->most_turns)) {
        return;
    }
    pthread_mutex_lock(&crew->lock);
    if (atomic_load(&crew->turns) > atomic_load(&crew->most_turns)) {
        atomic_fetch_sub(&crew->turns, 1);
        while (!crew->stopped && atomic_load(&crew->turns) >= atomic_load(&crew->most_turns)) {
            pthread_cond_wait(&crew->stand_by, &crew->lock);
        }
        atomic_fetch_add(&crew->turns, 1);
    }
    pthread_mutex_unlock(&crew->lock);
}

static int count_stuck(mcp_crew_t *crew)
{
    apr_time_t before = mcp_clock_now() - STUCK_AFTER;
    int i, stuck = 0;

    for (i = 0; i < crew->count; i++) {
        apr_time_t since = atomic_load_explicit(&crew->members[i].busy_since,
                                                memory_order_relaxed);

        stuck += since && since < before;
    }
    return stuck;
}

static int is_stopped(mcp_crew_t *crew)
{
    int stopped;

    pthread_mutex_lock(&crew->lock);
    stopped = crew->stopped;
    pthread_mutex_unlock(&crew->lock);
    return stopped;
}

static void *run_foreman(void *baton)
{
    const struct timespec nap = { 0, LOOK_EVERY_NS };
    mcp_crew_t *crew = baton;

    while (!is_stopped(crew)) {
        int stuck;

        atomic_store(&crew->alarmed, 0);
        /* A thread that took the last turn before this was reset has not rung. */
        if (atomic_load(&crew->idle) > 0) {
            while (sem_wait(&crew->alarm) != 0) {
            }
        }
        atomic_store(&crew->alarmed, 1);
        nanosleep(&nap, NULL);
        stuck = count_stuck(crew);
        pthread_mutex_lock(&crew->lock);
        atomic_store(&crew->most_turns, crew->core + stuck);
        if (stuck) {
            pthread_cond_broadcast(&crew->stand_by);
        }
        pthread_mutex_unlock(&crew->lock);
    }
    return NULL;
}

/* Called by the thread that got something to do. */
static void note_busy(mcp_crew_t *crew, member_t *self)
{
    atomic_store_explicit(&self->busy_since, mcp_clock_now(), memory_order_relaxed);
    if (atomic_fetch_sub(&crew->idle, 1) == 1 && !atomic_exchange(&crew->alarmed, 1)) {
        sem_post(&crew->alarm);
    }
}

static void *APR_THREAD_FUNC run_thread(apr_thread_t *thread, void *baton)
{
    member_t *self = baton;
    mcp_crew_t *crew = self->crew;
    struct epoll_event event;
    int count, is_end = 0;

    while (!is_end) {
        atomic_store_explicit(&self->busy_since, 0, memory_order_relaxed);
        wait_for_turn(crew);
        atomic_fetch_add(&crew->idle, 1);
        count = epoll_wait(crew->epoll_fd, &event, 1, -1);
        note_busy(crew, self);
        if (count <= 0) {
            continue;
        }
        if (event.data.ptr == &crew->wake_fd) {
            is_end = take_job(crew);
        }
        else if (event.data.ptr == &crew->sweep_fd) {
            sweep(crew);
        }
        else {
            serve(crew, event.data.ptr);
        }
    }
    return NULL;
}

static int watch(mcp_crew_t *crew, int *fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = fd };

    return *fd >= 0 && epoll_ctl(crew->epoll_fd, EPOLL_CTL_ADD, *fd, &event) == 0;
}

static void close_descriptors(mcp_crew_t *crew)
{
    close(crew->epoll_fd);
    close(crew->wake_fd);
    close(crew->sweep_fd);
}

static int open_descriptors(mcp_crew_t *crew)
{
    const struct itimerspec second = { { 1, 0 }, { 1, 0 } };

    crew->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    crew->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    crew->sweep_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (watch(crew, &crew->wake_fd) && watch(crew, &crew->sweep_fd)
        && timerfd_settime(crew->sweep_fd, 0, &second, NULL) == 0) {
        return 1;
    }
    close_descriptors(crew);
    return 0;
}

mcp_crew_t *mcp_crew_create(int threads, apr_pool_t *pool)
{
    mcp_crew_t *crew = apr_pcalloc(pool, sizeof(*crew));
    sigset_t before;

    crew->jobs_end = &crew->jobs;
    crew->swept = mcp_clock_now() / APR_USEC_PER_SEC;
    crew->members = apr_pcalloc(pool, (apr_size_t)threads * sizeof(*crew->members));
    crew->core = TURNS_PER_CORE * (int)sysconf(_SC_NPROCESSORS_ONLN);
    crew->most_turns = crew->core;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->stand_by, NULL);
    sem_init(&crew->alarm, 0, 0);
    if (!open_descriptors(crew)) {
        return NULL;
    }
    mcp_thread_block_signals(&before);
    /* httpd's own call: code that runs on these threads asks for ap_thread_current(). */
    while (crew->count < threads) {
        member_t *member = &crew->members[crew->count];

        member->crew = crew;
        atomic_fetch_add(&crew->turns, 1);
        if (ap_thread_create(&member->thread, NULL, run_thread, member, pool) != APR_SUCCESS) {
            atomic_fetch_sub(&crew->turns, 1);
            break;
        }
        crew->count++;
    }
    if (crew->count && pthread_create(&crew->foreman, NULL, run_foreman, crew)) {
        /* Nobody watches: all take turns. */
        crew->foreman = 0;
        atomic_store(&crew->most_turns, threads);
    }
    mcp_thread_restore_signals(&before);
    if (!crew->count) {
        close_descriptors(crew);
        return NULL;
    }
    return crew;
}

void mcp_crew_stop(mcp_crew_t *crew)
{
    apr_status_t status;
    int i;

    pthread_mutex_lock(&crew->lock);
    crew->stopped = 1;
    pthread_cond_broadcast(&crew->stand_by);
    pthread_mutex_unlock(&crew->lock);
    wake(crew);
    for (i = 0; i < crew->count; i++) {
        apr_thread_join(&status, crew->members[i].thread);
    }
    if (crew->foreman) {
        sem_post(&crew->alarm);
        pthread_join(crew->foreman, NULL);
    }
    /* The descriptors stay: a job that comes now must not wake who has got their numbers. */
}
