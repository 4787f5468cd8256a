/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_REGISTRY_H
#define MCP_PROXY_REGISTRY_H

#include <apr_errno.h>
#include <apr_time.h>
#include <sys/types.h>

/*
 * The event streams that are open, of all children, for a page that shows them and can have one
 * ended. A table of fixed size in memory that all children share. Lock-free: a slot is the process
 * that has claimed it with one compare-and-swap, and only that process writes to it, apart from the
 * wish that the stream end. A slot of a dead process is freed by whoever knows that it is dead.
 * Whoever reads gets copies, and none of a slot that changed hands meanwhile.
 */

#define MCP_REGISTRY_USER 96
#define MCP_REGISTRY_ADDRESS 48
#define MCP_REGISTRY_METHOD 32

typedef struct mcp_registry_t mcp_registry_t;

/** What is known of a stream. Times are mcp_clock_now()'s. */
typedef struct mcp_registry_stream_t {
    apr_uint64_t member;     /* as mcp_proxy_member_hash() has it */
    apr_time_t opened, last; /* last: when its backend last sent something */
    apr_uint64_t bytes;      /* from the backend */
    apr_uint64_t session;    /* of a digest of its session; 0: not looked at, or none */
    apr_uint32_t index, serial; /* its name: no other stream has both, ever */
    apr_int32_t pid;
    apr_uint32_t is_ended;   /* somebody wants it to end */
    char user[MCP_REGISTRY_USER];       /* as httpd authenticated it, cut; "": nobody */
    char address[MCP_REGISTRY_ADDRESS]; /* of the client */
    char method[MCP_REGISTRY_METHOD];   /* of HTTP or MCP: a label, never a client's text */
} mcp_registry_stream_t;

/** The owner's hold on its slot. */
typedef struct mcp_registry_slot_t mcp_registry_slot_t;

apr_size_t mcp_registry_size(unsigned slots);

/** @a mem is zeroed or a registry of as many slots, shared, and lives longer than all users. */
mcp_registry_t *mcp_registry_init(void *mem, unsigned slots);

/**
 * Claim a slot. Any thread.
 * @param cursor where to look first; kept by the process, which lets nobody look at it
 * @param stream what to show; index, serial, pid and is_ended are made here
 * @return NULL if there is none near: the stream is not shown, and that is all
 */
mcp_registry_slot_t *mcp_registry_open(mcp_registry_t *registry, apr_uint32_t *cursor, pid_t pid,
                                       const mcp_registry_stream_t *stream);

/** Something came. On the thread that has the stream; two plain writes. */
void mcp_registry_note(mcp_registry_slot_t *slot, apr_uint64_t bytes, apr_time_t now);

/** It goes on at another member. On the thread that has the stream. */
void mcp_registry_move(mcp_registry_slot_t *slot, apr_uint64_t member);

/** Whether somebody wants it to end. On the thread that has the stream. */
int mcp_registry_is_ended(const mcp_registry_slot_t *slot);

/**
 * Whether somebody doubts that its client is there; says so once. On the thread that has the
 * stream.
 */
int mcp_registry_take_doubt(mcp_registry_slot_t *slot);

/** Free the slot. NULL is allowed. */
void mcp_registry_close(mcp_registry_slot_t *slot);

/** A process is gone: free what it had. */
void mcp_registry_bury(mcp_registry_t *registry, pid_t pid);

/** Free the slots of all processes that are gone. In the parent: it must be allowed to ask. */
void mcp_registry_sweep(mcp_registry_t *registry);

/** Call @a fn with a copy of each. */
void mcp_registry_each(mcp_registry_t *registry,
                       void (*fn)(void *baton, const mcp_registry_stream_t *stream), void *baton);

/**
 * Want a stream to end. Its process must then be told to look.
 * @return APR_NOTFOUND: it has ended already
 */
apr_status_t mcp_registry_end(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial);

/** As mcp_registry_end(), but its process is only to see whether the client is still there. */
apr_status_t mcp_registry_doubt(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial);

/** Whether a stream is still open. */
int mcp_registry_has(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial);

/** Whether @a stream is what this slot shows. */
int mcp_registry_is_in(const mcp_registry_slot_t *slot, const mcp_registry_stream_t *stream);

#endif
