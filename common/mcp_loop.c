/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of the loop: wait, then call the watches that have events, then what was posted, then
 * the timers that are due. Invariants: an entry of the batch points to an active watch or is NULL,
 * so a watch that is stopped in the middle of a round is not called and may be freed at once; a
 * timer's slot is its index in the heap, 0 while it does not run. The lock guards the queue of
 * posted calls and nothing else; it is held for a few instructions and, when the queue was empty,
 * for the one write that wakes the loop.
 */
#include "mcp_loop.h"
#include "mcp_clock.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define BATCH 256
#define BUFFER_SIZE (64 * 1024)
#define HEAP_AT_FIRST 64

/* The time stands beside the pointer so that sifting does not touch the timers that it compares. */
typedef struct heap_entry_t {
    apr_time_t when;
    mcp_timer_t *timer;
} heap_entry_t;

struct mcp_loop_t {
    int epoll_fd;
    mcp_watch_t wake; /* an eventfd; edge-triggered, so that nobody has to read it */
    int woken;
    atomic_int stopped;
    apr_time_t now;

    struct epoll_event batch[BATCH];
    int batch_next, batch_count;

    heap_entry_t *heap; /* from index 1 */
    unsigned heap_count, heap_room;

    pthread_mutex_t lock;
    mcp_post_t *posts, **posts_end;

    char buffer[BUFFER_SIZE];
};

static void note_wake(mcp_watch_t *watch, unsigned events)
{
    mcp_loop_t *loop = watch->baton;

    loop->woken = 1;
}

static void wake(mcp_loop_t *loop)
{
    const apr_uint64_t one = 1;

    while (write(loop->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static int open_descriptors(mcp_loop_t *loop)
{
    int fd;

    loop->wake.fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        return 0;
    }
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return 0;
    }
    loop->wake.fn = note_wake;
    loop->wake.baton = loop;
    if (mcp_watch_start(loop, &loop->wake, fd, EPOLLIN | EPOLLET) != APR_SUCCESS) {
        close(fd);
        return 0;
    }
    return 1;
}

mcp_loop_t *mcp_loop_create(void)
{
    mcp_loop_t *loop = calloc(1, sizeof(*loop));

    if (!loop) {
        return NULL;
    }
    pthread_mutex_init(&loop->lock, NULL);
    loop->posts_end = &loop->posts;
    loop->now = mcp_clock_now();
    loop->heap_room = HEAP_AT_FIRST;
    loop->heap = malloc(loop->heap_room * sizeof(*loop->heap));
    if (!loop->heap || !open_descriptors(loop)) {
        mcp_loop_destroy(loop);
        return NULL;
    }
    return loop;
}

void mcp_loop_destroy(mcp_loop_t *loop)
{
    /* Whoever stopped it may not have left mcp_loop_stop() yet. */
    pthread_mutex_lock(&loop->lock);
    pthread_mutex_unlock(&loop->lock);
    if (loop->wake.active) {
        close(loop->wake.fd);
    }
    if (loop->epoll_fd >= 0) {
        close(loop->epoll_fd);
    }
    pthread_mutex_destroy(&loop->lock);
    free(loop->heap);
    free(loop);
}

void mcp_loop_post(mcp_loop_t *loop, mcp_post_t *post)
{
    int was_empty;

    post->next = NULL;
    pthread_mutex_lock(&loop->lock);
    was_empty = loop->posts == NULL;
    *loop->posts_end = post;
    loop->posts_end = &post->next;
    /* Under the lock: what is posted may end the loop, which must not go before this write. */
    if (was_empty) {
        wake(loop);
    }
    pthread_mutex_unlock(&loop->lock);
}

void mcp_loop_stop(mcp_loop_t *loop)
{
    pthread_mutex_lock(&loop->lock);
    atomic_store(&loop->stopped, 1);
    wake(loop);
    pthread_mutex_unlock(&loop->lock);
}

apr_time_t mcp_loop_now(const mcp_loop_t *loop)
{
    return loop->now;
}

int mcp_loop_load(const mcp_loop_t *loop)
{
    return loop->batch_count;
}

char *mcp_loop_buffer(mcp_loop_t *loop, apr_size_t *size)
{
    *size = BUFFER_SIZE;
    return loop->buffer;
}

apr_status_t mcp_watch_start(mcp_loop_t *loop, mcp_watch_t *watch, int fd, unsigned events)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };

    mcp_watch_stop(loop, watch);
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        return errno;
    }
    watch->fd = fd;
    watch->events = events;
    watch->active = 1;
    return APR_SUCCESS;
}

apr_status_t mcp_watch_change(mcp_loop_t *loop, mcp_watch_t *watch, unsigned events)
{
    struct epoll_event event = { .events = events, .data.ptr = watch };

    if (!watch->active) {
        return APR_EINVAL;
    }
    if (watch->events == events) {
        return APR_SUCCESS;
    }
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event) < 0) {
        return errno;
    }
    watch->events = events;
    return APR_SUCCESS;
}

void mcp_watch_stop(mcp_loop_t *loop, mcp_watch_t *watch)
{
    if (watch->active) {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
        mcp_watch_forget(loop, watch);
    }
}

void mcp_watch_forget(mcp_loop_t *loop, mcp_watch_t *watch)
{
    int i;

    watch->active = 0;
    for (i = loop->batch_next; i < loop->batch_count; i++) {
        if (loop->batch[i].data.ptr == watch) {
            loop->batch[i].data.ptr = NULL;
        }
    }
}

static void run_watches(mcp_loop_t *loop)
{
    while (loop->batch_next < loop->batch_count) {
        struct epoll_event *event = &loop->batch[loop->batch_next++];
        mcp_watch_t *watch = event->data.ptr;
        unsigned events;

        if (!watch) {
            continue;
        }
        /* It may have been changed since the kernel reported this. */
        events = event->events & (watch->events | EPOLLERR | EPOLLHUP);
        if (events) {
            watch->fn(watch, events);
        }
    }
}

static void run_posts(mcp_loop_t *loop)
{
    mcp_post_t *post, *next;

    if (!loop->woken) {
        return;
    }
    loop->woken = 0;
    pthread_mutex_lock(&loop->lock);
    post = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    pthread_mutex_unlock(&loop->lock);
    for (; post; post = next) {
        next = post->next;
        post->fn(post->baton);
    }
}

static void put(mcp_loop_t *loop, unsigned slot, heap_entry_t entry)
{
    loop->heap[slot] = entry;
    entry.timer->slot = slot;
}

/* Find the place of @a entry, given that @a slot is free and all but it are in order. */
static void sift(mcp_loop_t *loop, unsigned slot, heap_entry_t entry)
{
    heap_entry_t *heap = loop->heap;
    unsigned child;

    while (slot > 1 && entry.when < heap[slot / 2].when) {
        put(loop, slot, heap[slot / 2]);
        slot /= 2;
    }
    while ((child = 2 * slot) <= loop->heap_count) {
        if (child < loop->heap_count && heap[child + 1].when < heap[child].when) {
            child++;
        }
        if (entry.when <= heap[child].when) {
            break;
        }
        put(loop, slot, heap[child]);
        slot = child;
    }
    put(loop, slot, entry);
}

static void grow_heap(mcp_loop_t *loop)
{
    heap_entry_t *heap = reallocarray(loop->heap, loop->heap_room, 2 * sizeof(*heap));

    if (!heap) {
        abort(); /* Out of memory ends an httpd child, here as in any pool. */
    }
    loop->heap = heap;
    loop->heap_room *= 2;
}

void mcp_timer_start(mcp_loop_t *loop, mcp_timer_t *timer, apr_time_t when)
{
    unsigned slot = timer->slot;

    if (!slot) {
        if (loop->heap_count + 1 == loop->heap_room) {
            grow_heap(loop);
        }
        slot = ++loop->heap_count;
    }
    timer->when = when;
    sift(loop, slot, (heap_entry_t){ .when = when, .timer = timer });
}

void mcp_timer_stop(mcp_loop_t *loop, mcp_timer_t *timer)
{
    unsigned slot = timer->slot;
    heap_entry_t last;

    if (!slot) {
        return;
    }
    timer->slot = 0;
    last = loop->heap[loop->heap_count--];
    if (last.timer != timer) {
        sift(loop, slot, last);
    }
}

static void run_timers(mcp_loop_t *loop)
{
    unsigned most = loop->heap_count;

    /* A timer that starts itself anew for a time that has come waits for the next round. */
    while (most-- && loop->heap_count && loop->heap[1].when <= loop->now) {
        mcp_timer_t *timer = loop->heap[1].timer;

        mcp_timer_stop(loop, timer);
        timer->fn(timer);
    }
}

/* Milliseconds until the next timer, rounded up: waking early would be a round for nothing. */
static int time_to_wait(mcp_loop_t *loop)
{
    apr_interval_time_t left;

    if (!loop->heap_count) {
        return -1;
    }
    left = loop->heap[1].when - mcp_clock_now();
    if (left <= 0) {
        return 0;
    }
    return left > INT_MAX ? INT_MAX / 1000 : (int)((left + 999) / 1000);
}

void mcp_loop_run(mcp_loop_t *loop)
{
    int count;

    loop->now = mcp_clock_now();
    while (!atomic_exchange(&loop->stopped, 0)) {
        count = epoll_wait(loop->epoll_fd, loop->batch, BATCH, time_to_wait(loop));
        loop->now = mcp_clock_now();
        loop->batch_next = 0;
        loop->batch_count = count > 0 ? count : 0;
        run_watches(loop);
        run_posts(loop);
        run_timers(loop);
    }
}
