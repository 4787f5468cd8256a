/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCPLOAD_H
#define MCPLOAD_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

/*
 * The load tool's two halves, a scripted MCP backend and a client, are processes of their own with
 * the proxy under test between them. They share a clock (CLOCK_MONOTONIC, whose readings travel
 * inside the events) and the board, a mapped file on which the backend notes when it was told that
 * a stream is gone.
 */

#define MCPLOAD_SLOTS 65536u /* streams have an id below this */

typedef struct mcpload_board_t {
    _Atomic uint32_t open;                   /* streams that the backend has open */
    _Atomic uint32_t refused;                /* requests that the backend did not understand */
    _Atomic uint64_t gone_ns[MCPLOAD_SLOTS]; /* when it was told that a stream is gone, or 0 */
} mcpload_board_t;

/*
 * What the backend writes into each event and the client looks for:
 * "n":"<8 hex digits, the event's number>","t":"<16 hex digits, ns when it was written>"
 */
#define MCPLOAD_MARK     "\"n\":\""
#define MCPLOAD_MARK_LEN 5
#define MCPLOAD_T_AT     (MCPLOAD_MARK_LEN + 8 + 7)
#define MCPLOAD_REC_LEN  (MCPLOAD_T_AT + 16)

static inline uint64_t mcpload_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/** Serve until stdin ends. Never returns. */
void mcpload_serve(int port, mcpload_board_t *board);

/** Obey commands from stdin until it ends. Never returns. */
void mcpload_drive(int port, mcpload_board_t *board);

/**
 * Let a crowd of clients come at once beside steady calls, as commands from stdin say, until it
 * ends. Never returns.
 */
void mcpload_storm(int port);

/** What a client asks first, then: whole requests. @return the length */
size_t mcpload_initialize(char *buf, size_t size);
size_t mcpload_call(char *buf, size_t size, const char *session);

/** 1: an answer is complete; 0: not yet; -1: it is no good one. */
int mcpload_answer_state(const char *in, size_t used);

/** The session id in the head of an answer to initialize, into 64 bytes. @return 0:
 * there is none */
int mcpload_session(const char *in, char *session);

/** Give up, with the reason and errno on stderr. */
void mcpload_die(const char *what) __attribute__((noreturn));

/** A TCP socket without Nagle and, where asked, without blocking; dies if there is none. */
int mcpload_socket(int flags);

/** Fill a loopback address. */
struct sockaddr_in;
void mcpload_addr(struct sockaddr_in *sa, int port);

/*
 * The durations that one command measures. Kept up to a fixed number, sorted before percentiles
 * are asked for, which are in microseconds, -1 without a sample.
 */
void mcpload_samples_reset(void);
void mcpload_sample(uint64_t ns);
uint32_t mcpload_samples_count(void);
void mcpload_samples_sort(void);
double mcpload_pct(double p);

#endif
