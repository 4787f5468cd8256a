/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_LOOP_H
#define MCP_LOOP_H

#include <apr_pools.h>
#include <apr_time.h>

/*
 * An event loop on epoll: descriptors, timers, and calls posted from other threads. One thread runs
 * it. Everything but mcp_loop_post() and mcp_loop_stop() belongs to that thread. Watches and timers
 * are the caller's memory and must be ended before it goes.
 */

typedef struct mcp_loop_t mcp_loop_t;

typedef struct mcp_watch_t mcp_watch_t;
typedef void mcp_watch_fn(mcp_watch_t *watch, unsigned events);

struct mcp_watch_t {
    int fd;             /* set by mcp_watch_start() */
    unsigned events;    /* EPOLL*, as asked for; level-triggered */
    int active;
    mcp_watch_fn *fn;   /* set by the caller */
    void *baton;        /* set by the caller */
};

typedef struct mcp_timer_t mcp_timer_t;
typedef void mcp_timer_fn(mcp_timer_t *timer);

struct mcp_timer_t {
    apr_time_t when;    /* mcp_clock_now() time; set by mcp_timer_start() */
    unsigned slot;      /* private: place in the heap, from 1; 0: not running */
    mcp_timer_fn *fn;   /* set by the caller */
    void *baton;        /* set by the caller */
};

/** A call posted from another thread; the caller's memory until it has run. */
typedef struct mcp_post_t mcp_post_t;
struct mcp_post_t {
    mcp_post_t *next;   /* private */
    void (*fn)(void *baton);
    void *baton;
};

/** A loop, with malloc: it may outlive any pool. NULL: out of descriptors or memory. */
mcp_loop_t *mcp_loop_create(void);
void mcp_loop_destroy(mcp_loop_t *loop);

/**
 * Run until mcp_loop_stop(); may be run again. A round calls the watches that have events, then
 * what was posted before, then the timers that are due; all of them also when one stops the loop.
 */
void mcp_loop_run(mcp_loop_t *loop);

/** Any thread: make mcp_loop_run() return, at once when it is called if it is not running now. */
void mcp_loop_stop(mcp_loop_t *loop);

/**
 * Any thread: run post->fn on the loop's thread, in the order posted. The call may free @a post.
 * What is posted after the loop's last round never runs.
 */
void mcp_loop_post(mcp_loop_t *loop, mcp_post_t *post);

/** The time at which this round of the loop began. */
apr_time_t mcp_loop_now(const mcp_loop_t *loop);

/** How many watches had events in this round, 256 at most: whether work queues up. */
int mcp_loop_load(const mcp_loop_t *loop);

/** 64 KiB that belong to whoever runs on the loop, until it returns. */
char *mcp_loop_buffer(mcp_loop_t *loop, apr_size_t *size);

/**
 * Watch @a fd. EPOLLERR and EPOLLHUP are told whether asked for or not. A descriptor has one watch
 * at a time, which is stopped before the descriptor is closed.
 * @return an errno as apr_status_t if epoll refuses it
 */
apr_status_t mcp_watch_start(mcp_loop_t *loop, mcp_watch_t *watch, int fd, unsigned events);

/** @return APR_EINVAL if it is not active */
apr_status_t mcp_watch_change(mcp_loop_t *loop, mcp_watch_t *watch, unsigned events);

/** End a watch; nothing of it is called afterwards, not even from this round. */
void mcp_watch_stop(mcp_loop_t *loop, mcp_watch_t *watch);

/**
 * End a watch whose descriptor is closed at once, and was never duplicated: what the kernel knows
 * of it ends with the descriptor, and one system call is saved.
 */
void mcp_watch_forget(mcp_loop_t *loop, mcp_watch_t *watch);

/** (Re)start a timer that runs once, at @a when. */
void mcp_timer_start(mcp_loop_t *loop, mcp_timer_t *timer, apr_time_t when);
void mcp_timer_stop(mcp_loop_t *loop, mcp_timer_t *timer);

#endif
