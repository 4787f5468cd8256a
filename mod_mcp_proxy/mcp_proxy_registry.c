/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot's pid claims it; live, which is the claim's serial number, says that the rest can be read.
 * A reader copies word by word and looks at live before and after. Freeing goes the other way
 * round. A process that dies between claiming and freeing leaves its pid behind, so that nothing is
 * lost that cannot be found.
 */
#include "mcp_proxy_registry.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

/* Slots looked at for a free one: with a tenth of them free, sixteen are enough on the average. */
#define MOST_LOOKS 1024
#define WORDS (sizeof(mcp_registry_stream_t) / sizeof(apr_uint64_t))

_Static_assert(sizeof(mcp_registry_stream_t) % sizeof(apr_uint64_t) == 0, "copied in words");

struct mcp_registry_slot_t {
    apr_int32_t pid;     /* 0: free */
    apr_uint32_t serial; /* of the last claim; never 0 in a claim */
    apr_uint32_t live;   /* the serial of what can be read; 0: nothing */
    apr_uint32_t end;    /* the serial of what is to end */
    apr_uint32_t doubt;  /* ... of what somebody doubts */
    union {
        mcp_registry_stream_t stream;
        apr_uint64_t words[WORDS];
    } u;
} __attribute__((aligned(64)));

struct mcp_registry_t {
    apr_uint32_t count;
    mcp_registry_slot_t slots[];
};

apr_size_t mcp_registry_size(unsigned slots)
{
    return sizeof(mcp_registry_t) + slots * sizeof(mcp_registry_slot_t);
}

mcp_registry_t *mcp_registry_init(void *mem, unsigned slots)
{
    mcp_registry_t *registry = mem;

    registry->count = slots;
    return registry;
}

static mcp_registry_slot_t *claim(mcp_registry_t *registry, apr_uint32_t *cursor, pid_t pid,
                                  apr_uint32_t *index)
{
    unsigned looks;

    for (looks = 0; looks < MOST_LOOKS && looks < registry->count; looks++) {
        apr_uint32_t i = __atomic_fetch_add(cursor, 1, __ATOMIC_RELAXED) % registry->count;
        apr_int32_t nobody = 0;

        if (__atomic_load_n(&registry->slots[i].pid, __ATOMIC_RELAXED) == 0
            && __atomic_compare_exchange_n(&registry->slots[i].pid, &nobody, (apr_int32_t)pid, 0,
                                           __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            *index = i;
            return &registry->slots[i];
        }
    }
    return NULL;
}

mcp_registry_slot_t *mcp_registry_open(mcp_registry_t *registry, apr_uint32_t *cursor, pid_t pid,
                                       const mcp_registry_stream_t *stream)
{
    union {
        mcp_registry_stream_t stream;
        apr_uint64_t words[WORDS];
    } fresh;
    apr_uint32_t index = 0;
    mcp_registry_slot_t *slot = claim(registry, cursor, pid, &index);
    unsigned i;

    if (!slot) {
        return NULL;
    }
    slot->serial = slot->serial + 1 ? slot->serial + 1 : 1;
    fresh.stream = *stream;
    fresh.stream.index = index;
    fresh.stream.serial = slot->serial;
    fresh.stream.pid = (apr_int32_t)pid;
    fresh.stream.is_ended = 0;
    /* Whoever sees one of the words also sees that live was taken back before. */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (i = 0; i < WORDS; i++) {
        __atomic_store_n(&slot->u.words[i], fresh.words[i], __ATOMIC_RELAXED);
    }
    __atomic_store_n(&slot->live, slot->serial, __ATOMIC_RELEASE);
    return slot;
}

void mcp_registry_note(mcp_registry_slot_t *slot, apr_uint64_t bytes, apr_time_t now)
{
    __atomic_store_n(&slot->u.stream.bytes, bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->u.stream.last, now, __ATOMIC_RELAXED);
}

void mcp_registry_move(mcp_registry_slot_t *slot, apr_uint64_t member)
{
    __atomic_store_n(&slot->u.stream.member, member, __ATOMIC_RELAXED);
}

int mcp_registry_is_ended(const mcp_registry_slot_t *slot)
{
    return __atomic_load_n(&slot->end, __ATOMIC_RELAXED) == slot->serial;
}

int mcp_registry_take_doubt(mcp_registry_slot_t *slot)
{
    if (__atomic_load_n(&slot->doubt, __ATOMIC_RELAXED) != slot->serial) {
        return 0;
    }
    __atomic_store_n(&slot->doubt, 0, __ATOMIC_RELAXED);
    return 1;
}

int mcp_registry_is_in(const mcp_registry_slot_t *slot, const mcp_registry_stream_t *stream)
{
    return slot && slot->serial == stream->serial && slot->u.stream.index == stream->index;
}

void mcp_registry_close(mcp_registry_slot_t *slot)
{
    if (slot) {
        __atomic_store_n(&slot->live, 0, __ATOMIC_RELEASE);
        __atomic_store_n(&slot->pid, 0, __ATOMIC_RELEASE);
    }
}

void mcp_registry_bury(mcp_registry_t *registry, pid_t pid)
{
    apr_uint32_t i;

    for (i = 0; i < registry->count; i++) {
        if (__atomic_load_n(&registry->slots[i].pid, __ATOMIC_ACQUIRE) == (apr_int32_t)pid) {
            mcp_registry_close(&registry->slots[i]);
        }
    }
}

void mcp_registry_sweep(mcp_registry_t *registry)
{
    apr_uint32_t i;

    for (i = 0; i < registry->count; i++) {
        apr_int32_t pid = __atomic_load_n(&registry->slots[i].pid, __ATOMIC_ACQUIRE);

        if (pid && kill(pid, 0) < 0 && errno == ESRCH) {
            mcp_registry_close(&registry->slots[i]);
        }
    }
}

/* A copy that is one stream's from end to end; 0: the slot is free or changed hands. */
static int copy(const mcp_registry_slot_t *slot, mcp_registry_stream_t *to)
{
    union {
        mcp_registry_stream_t stream;
        apr_uint64_t words[WORDS];
    } seen;
    apr_uint32_t live = __atomic_load_n(&slot->live, __ATOMIC_ACQUIRE);
    unsigned i;

    if (!live) {
        return 0;
    }
    for (i = 0; i < WORDS; i++) {
        seen.words[i] = __atomic_load_n(&slot->u.words[i], __ATOMIC_RELAXED);
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&slot->live, __ATOMIC_RELAXED) != live || seen.stream.serial != live) {
        return 0;
    }
    *to = seen.stream;
    to->is_ended = __atomic_load_n(&slot->end, __ATOMIC_RELAXED) == live;
    return 1;
}

void mcp_registry_each(mcp_registry_t *registry,
                       void (*fn)(void *baton, const mcp_registry_stream_t *stream), void *baton)
{
    mcp_registry_stream_t stream;
    apr_uint32_t i;

    for (i = 0; i < registry->count; i++) {
        if (copy(&registry->slots[i], &stream)) {
            fn(baton, &stream);
        }
    }
}

static mcp_registry_slot_t *slot_of(mcp_registry_t *registry, apr_uint32_t index,
                                    apr_uint32_t serial)
{
    mcp_registry_slot_t *slot = index < registry->count && serial ? &registry->slots[index] : NULL;

    return slot && __atomic_load_n(&slot->live, __ATOMIC_ACQUIRE) == serial ? slot : NULL;
}

/* If the slot changes hands before the wish is noted, nobody has this serial any more. */
apr_status_t mcp_registry_end(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial)
{
    mcp_registry_slot_t *slot = slot_of(registry, index, serial);

    if (!slot) {
        return APR_NOTFOUND;
    }
    __atomic_store_n(&slot->end, serial, __ATOMIC_RELEASE);
    return APR_SUCCESS;
}

apr_status_t mcp_registry_doubt(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial)
{
    mcp_registry_slot_t *slot = slot_of(registry, index, serial);

    if (!slot) {
        return APR_NOTFOUND;
    }
    __atomic_store_n(&slot->doubt, serial, __ATOMIC_RELEASE);
    return APR_SUCCESS;
}

int mcp_registry_has(mcp_registry_t *registry, apr_uint32_t index, apr_uint32_t serial)
{
    return slot_of(registry, index, serial) != NULL;
}
