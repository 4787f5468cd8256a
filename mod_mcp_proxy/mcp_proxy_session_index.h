/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_PROXY_SESSION_INDEX_H
#define MCP_PROXY_SESSION_INDEX_H

#include <apr.h>
#include <pthread.h>

#include "mcp_proxy_session.h"

/*
 * For mcp_proxy_session.c and its test: how the session table lies in memory. One block without a
 * pointer in it; entries are known by index, and index 0 is nobody. A live entry is in a hash
 * chain, belongs to an identity, and is either held (until is set) or idle: held ones are in a
 * list by until, idle ones in the list of all and in that of their identity, by used. Only the
 * entries themselves outlive a process that dies amid a change: one is filled in before it is
 * live, and dead before anything else of it changes. The caller holds table->lock throughout.
 */

typedef struct mcp_session_link_t {
    apr_uint32_t newer, older;
} mcp_session_link_t;

typedef struct mcp_session_list_t {
    apr_uint32_t newest, oldest;
} mcp_session_list_t;

typedef struct mcp_session_entry_t {
    mcp_session_key_t key;
    apr_uint64_t member;
    apr_time_t used;
    apr_time_t until;            /* held; 0 if idle */
    apr_time_t told;             /* when a store that others read was last told of it; 0: never */
    apr_uint32_t live;
    apr_uint32_t chain;          /* of the bucket, or of the free ones */
    apr_uint32_t identity;
    mcp_session_link_t links[2]; /* of all idle or of all held ones; of the identity's idle ones */
} mcp_session_entry_t;

/* Where the parts are, in bytes from the start of the block. */
typedef struct mcp_session_layout_t {
    apr_size_t entries, identities;    /* room + 1 of each */
    apr_size_t buckets, owner_buckets; /* mask + 1 of each */
    apr_size_t heap, order;            /* room + 1 of each; order: scratch of the rebuild */
    apr_size_t end;
} mcp_session_layout_t;

struct mcp_session_table_t {
    pthread_mutex_t lock;
    mcp_session_layout_t at;
    apr_uint32_t room, mask;
    apr_interval_time_t ttl;
    apr_time_t now; /* the latest that any caller has said */
    apr_uint32_t free_entry, free_identity;
    apr_uint32_t identity_count;
    mcp_session_list_t idle, held;
};

mcp_session_layout_t mcp_session_lay_out(unsigned entries);

/** Give a zeroed block its layout, with every entry free. Leaves the lock alone. */
void mcp_session_index_init(mcp_session_table_t *table, unsigned entries);

/** Make everything anew from the live entries, in no more than n log n steps. */
void mcp_session_rebuild(mcp_session_table_t *table);

static inline mcp_session_entry_t *mcp_session_entry(mcp_session_table_t *table, apr_uint32_t i)
{
    return (mcp_session_entry_t *)((char *)table + table->at.entries) + i;
}

/** The live entry of that id; 0 if there is none. */
apr_uint32_t mcp_session_lookup(mcp_session_table_t *table, const unsigned char *id);

/** A free entry, for mcp_session_add(); 0 if there is none. */
apr_uint32_t mcp_session_take_free(mcp_session_table_t *table);

/** Make an entry live whose key, member, used and until are filled in. */
void mcp_session_add(mcp_session_table_t *table, apr_uint32_t i);

/** Free a live entry. */
void mcp_session_drop(mcp_session_table_t *table, apr_uint32_t i);

/** Set used and until (0: idle). A new used is not older than any other's. */
void mcp_session_move(mcp_session_table_t *table, apr_uint32_t i, apr_time_t used,
                      apr_time_t until);

/** What to evict: the least recently used of the identity with most; 0 if all are held. */
apr_uint32_t mcp_session_victim(mcp_session_table_t *table);

/** Unit tests only: what is inconsistent, as static text; NULL if nothing is. */
const char *mcp_session_check(mcp_session_table_t *table);

/** Unit tests only: take the lock and spoil whatever a rebuild has to make anew. Nobody unlocks. */
void mcp_session_wreck(mcp_session_table_t *table);

#endif
