# SPDX-License-Identifier: Apache-2.0
"""mod_mcp_ratelimit, properties: several gateways, one user, and everything that goes wrong.

MCP_FULL=1 runs longer.
"""
import json
import os
import random
import signal
import threading
import time

import pytest

from harness.limits import (LOAD, STORE_DOWN, STORE_UP, limited, message, serve, try_stream)
from harness.wait import FULL, wait_until

SECONDS = 20 if FULL else 2
KILLS = 100 if FULL else 8
COUNTS = [1, 2, 4, 8]
HEAD = [("Content-Type", "application/json"), ("X-User", "alice")]


class Chaos(threading.Thread):
    """Stops and continues gateways, restarts Redis, until told to end."""

    def __init__(self, gateways, server, seed):
        super().__init__(daemon=True)
        self.gateways, self.server = gateways, server
        self.random = random.Random(seed)
        self.ended = threading.Event()

    def run(self):
        restarts = 0
        while not self.ended.wait(self.random.uniform(0.1, 0.4)):
            if restarts == 0 or self.random.random() < 0.1:
                restarts += 1
                self.server.restart()
                continue
            pids = self._pids(self.random.choice(self.gateways))
            self._signal(pids, signal.SIGSTOP)
            self.ended.wait(self.random.uniform(0.05, 0.3))
            self._signal(pids, signal.SIGCONT)

    @staticmethod
    def _pids(gateway):
        return [gateway.process.pid, *gateway.children()]

    @staticmethod
    def _signal(pids, number):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def end(self):
        self.ended.set()
        self.join()


def in_threads(work, arguments):
    failures = []

    def guarded(argument):
        try:
            work(argument)
        except BaseException as error:  # told to the test
            failures.append(error)
    threads = [threading.Thread(target=guarded, args=(a,)) for a in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def hammer(gateway, until, admitted, refused):
    """POST as fast as it goes; when each admission was asked for and answered."""
    client = None
    while time.monotonic() < until:
        client = client or gateway.connect()
        sent = time.monotonic()
        try:
            response = client.request("POST", "/mcp", HEAD, message()).finish()
        except (OSError, EOFError, AssertionError):
            client.close()
            client = None
            continue
        if response.status == 200:
            admitted.append((sent, time.monotonic()))
        else:
            refused.append(response.status)
            if response.status != 429:
                client.close()
                client = None
    if client:
        client.close()


def worst_excess(admitted, rate, capacity):
    """Over all stretches of time: how many more were admitted than the bucket can give."""
    worst = float("-inf")
    for start, _ in admitted:
        inside = sorted(end for sent, end in admitted if sent >= start)
        for count, end in enumerate(inside, 1):
            worst = max(worst, count - (capacity + rate * (end - start)))
    return worst


@pytest.mark.parametrize("chaos", [False, True], ids=["calm", "chaos"])
@pytest.mark.parametrize("count", COUNTS)
def test_no_stretch_of_time_sees_more_than_refill_and_capacity(gateway, backend, redis, count,
                                                                chaos):
    rate, capacity = 20, 10
    server = redis()
    options = limited(server.store, "MCPRateLimitMessages %d/1s burst=%d" % (rate, capacity),
                      server=["MCPRateLimitOnError closed"], threads=8,
                      timeout="200ms" if chaos else "5s")
    upstream = backend(serve)
    gateways = [gateway(upstream, **options) for _ in range(count)]
    for one in gateways:
        one.expect_log(STORE_DOWN, optional=True)
        one.expect_log(STORE_UP, optional=True)
        one.expect_log("AH00484", optional=True)  # all of its few threads were stopped
        one.request("POST", "/mcp", [("Content-Type", "application/json"), ("X-User", "warm")],
                    json.dumps(message()).encode())
    admitted, refused = [], []
    trouble = Chaos(gateways, server, seed=count)
    until = time.monotonic() + SECONDS
    if chaos:
        trouble.start()
    in_threads(lambda one: hammer(one, until, admitted, refused), gateways * (8 // count))
    if chaos:
        trouble.end()
    assert 429 in refused
    assert worst_excess(admitted, rate, capacity) <= 0
    if not chaos:
        assert len(admitted) >= 0.8 * rate * SECONDS


@pytest.mark.parametrize("chaos", [False, True], ids=["calm", "chaos"])
def test_what_redis_lends_to_busy_gateways_is_never_given_out_twice(gateway, backend, redis,
                                                                     chaos):
    rate, capacity = 200, 512
    server = redis()
    options = limited(server.store, "MCPRateLimitMessages %d/1s burst=%d" % (rate, capacity),
                      server=["MCPRateLimitOnError closed"], threads=8,
                      timeout="200ms" if chaos else "5s")
    upstream = backend(serve)
    gateways = [gateway(upstream, **options) for _ in range(2)]
    for one in gateways:
        one.expect_log(STORE_DOWN, optional=True)
        one.expect_log(STORE_UP, optional=True)
        one.request("POST", "/mcp", [("Content-Type", "application/json"), ("X-User", "warm")],
                    json.dumps(message()).encode())
    admitted, refused = [], []
    trouble = Chaos(gateways, server, seed=3)
    until = time.monotonic() + SECONDS + 1
    if chaos:
        trouble.start()
    in_threads(lambda one: hammer(one, until, admitted, refused), gateways * 4)
    if chaos:
        trouble.end()
    assert worst_excess(admitted, rate, capacity) <= 0
    if not chaos:
        assert 429 in refused
        assert len(admitted) >= capacity + 0.8 * rate * SECONDS
        assert server.ask("HEXISTS", "mcp_msg:alice", "lent") == 1


class Streams:
    """Streams of one user; how many are alive whenever one more is admitted."""

    def __init__(self):
        self.lock = threading.Lock()
        self.live = []
        self.most = 0
        self.opened = 0

    def add(self, client):
        with self.lock:
            self.live.append(client)
            self.opened += 1
            # What a dead process leaves behind is closed by the kernel before anybody is told.
            ended = [c for c in self.live if c.is_closed_by_server()]
            self.live = [c for c in self.live if c not in ended]
            for one in ended:
                one.close()
            self.most = max(self.most, len(self.live))

    def close_one(self, chosen):
        with self.lock:
            client = self.live.pop(chosen.randrange(len(self.live))) if self.live else None
            if client:
                client.close()


def open_and_close(gateway, until, streams, seed):
    chosen = random.Random(seed)
    while time.monotonic() < until:
        try:
            client = gateway.connect()
            response = client.request("GET", "/mcp", [("X-User", "alice")])
        except (OSError, EOFError, AssertionError):
            continue
        if response.status == 200:
            streams.add(client)
        else:
            client.close()
        if chosen.random() < 0.3:
            streams.close_one(chosen)


@pytest.mark.parametrize("chaos", [False, True], ids=["calm", "chaos"])
@pytest.mark.parametrize("count", COUNTS)
def test_live_streams_never_exceed_the_limit(gateway, backend, redis, count, chaos):
    limit = 5
    server = redis()
    options = limited(server.store, "MCPRateLimitStreams %d" % limit, threads=8,
                      server=["MCPRateLimitOnError closed", "MCPRateLimitLease 3s"],
                      timeout="200ms" if chaos else "5s")
    upstream = backend(serve)
    gateways = [gateway(upstream, **options) for _ in range(count)]
    for number, one in enumerate(gateways):
        one.expect_log(STORE_DOWN, optional=True)
        one.expect_log(STORE_UP, optional=True)
        one.expect_log("AH00484", optional=True)  # all of its few threads were stopped
        try_stream(one, user="warm%d" % number).close()
    streams = Streams()
    trouble = Chaos(gateways, server, seed=count)
    until = time.monotonic() + SECONDS + (3 if chaos else 0)
    if chaos:
        trouble.start()
    in_threads(lambda n: open_and_close(gateways[n % count], until, streams, n), range(8))
    if chaos:
        trouble.end()
    assert streams.most <= limit
    assert streams.opened > limit
    for client in streams.live:
        client.close()
    wait_until(lambda: server.ask("ZCARD", "mcp_sse:alice:connections") == 0, "all to be free")


@pytest.mark.parametrize("mcp", [True, False], ids=["mcp_proxy", "mod_proxy"])
def test_after_many_kills_the_slots_in_use_are_the_live_streams(gateway, backend, redis, mcp):
    server = redis()
    limit = 30
    made = gateway(backend(serve), **limited(server.store, "MCPRateLimitStreams %d" % limit,
                                             mcp=mcp, children=2, threads=24,
                                             server=["MCPRateLimitLease 1h"]))
    made.expect_log("AH0.*", optional=True)
    streams = Streams()
    ended = threading.Event()

    def load(seed):
        while not ended.is_set():
            open_and_close(made, time.monotonic() + 0.1, streams, seed)
    threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(KILLS):
        before = wait_until(made.children, "children")
        os.kill(random.choice(before), signal.SIGKILL)
        wait_until(lambda: set(made.children()) - set(before), "a new child")
    ended.set()
    for thread in threads:
        thread.join()

    def live():
        return sum(not c.is_closed_by_server() for c in streams.live)
    assert streams.most <= limit
    wait_until(lambda: server.ask("ZCARD", "mcp_sse:alice:connections") == live(),
               "the slots in use to be the live streams")
    for client in streams.live:
        client.close()
    wait_until(lambda: server.ask("ZCARD", "mcp_sse:alice:connections") == 0, "all to be free")
    for peer in made.backends[0].peers:
        peer._shut()


def test_shared_memory_is_exact_across_children(gateway, backend):
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitMessages 20/1h", children=4))
    admitted, refused = [], []
    until = time.monotonic() + 1.5
    in_threads(lambda _: hammer(made, until, admitted, refused), range(8))
    assert len(admitted) == 20 and set(refused) == {429}


def test_a_stopped_child_stops_nobody_else(gateway, backend):
    """It may have been stopped while it held a lock of the shared memory."""
    made = gateway(backend(serve), **limited("shm", "MCPRateLimitMessages 100000/1h", children=3))
    made.expect_log("MCP3004", optional=True)
    for pid in made.children()[:2]:
        os.kill(pid, signal.SIGSTOP)
    answered = []
    for _ in range(60):
        try:
            with made.connect(timeout=0.5) as client:
                answered.append(client.request("POST", "/mcp", HEAD, message()).status)
        except (OSError, AssertionError, EOFError):
            pass
    for pid in made.children():
        os.kill(pid, signal.SIGCONT)
    assert answered and set(answered) <= {200, 503}


def test_the_module_needs_neither_mod_proxy_nor_mod_mcp_proxy(stage):
    from harness.gateway import Gateway, load_lines
    folder = stage.directory / "alone"
    folder.mkdir()

    class Alone(Gateway):
        def config(self):
            lines = [line for line in super().config().splitlines()
                     if not any(word in line.lower() for word in ("proxy", "slotmem", "lbmethod"))]
            return "\n".join(lines + load_lines(["asis"])) + "\n"
    made = Alone(folder, server=[
        LOAD, 'DocumentRoot "%s"' % folder, '<Location "/server-status">',
        "MCPRateLimitWindow 100/1h", "</Location>", '<Location "/x">', "Require all granted",
        "SetHandler server-status", "MCPRateLimitMessages 2/1h", "MCPRateLimitStreams 1",
        "</Location>"])
    stage.gateways.append(made)
    made.start()
    answers = [made.request("GET", "/x?auto").status for _ in range(3)]
    answers += [made.request("POST", "/x?auto", HEAD, b"{}").status for _ in range(3)]
    assert answers[:3] == [200] * 3 and answers[3:].count(429) == 1
