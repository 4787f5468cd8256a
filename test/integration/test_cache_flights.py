# SPDX-License-Identifier: Apache-2.0
"""Equal misses make one call; an old value stands in while it is refreshed or the backend fails."""
import glob
import json
import os
import re
import signal
import threading
import time

import pytest

from harness.caching import AUTH, Tool, as_json, post, status
from harness.client import ACCEPT, JSON, basic, call
from harness.wait import DEADLINE, settles, wait_until

HEAD = [ACCEPT, JSON, basic("alice", "wonder")]


def ask(gateway, message=None, **options):
    options.setdefault("user", "alice")
    return post(gateway, message or call("hold", x=1), **options)


class Crowd:
    """Many equal requests at once, one connection each, read without threads."""

    def __init__(self, gateway, count, message=None, head=None):
        self.gateway, self.connections = gateway, []
        for number in range(count):
            body = json.dumps({**(message or call("hold", x=1)), "id": number}).encode()
            client = gateway.connect()
            client.send(client.head("POST", "/mcp", head or HEAD, body) + body)
            self.connections.append(client)

    def answers(self):
        found = [client.response().finish() for client in self.connections]
        for client in self.connections:
            client.close()
        return found


def let_wait(gateway, count):
    """Until all have been read and wait: on no thread, or, where the MPM cannot, each on its own."""
    if gateway.mpm == "event":
        busy = settles(lambda: int(gateway.status()["BusyWorkers"]), 0.3)
        assert busy <= 3
    else:
        wait_until(lambda: int(gateway.status()["BusyWorkers"]) > count, "%d to wait" % count)


def holds(server):
    return sum(1 for seen in server.requests if b'"hold"' in seen.body)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_a_thousand_equal_misses_make_one_call_and_hold_no_thread(caching, server, stage, far, alone):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, children=2, threads=16, alone=alone,
                      store=stage.cache_redis().store if far else None)
    gateway.expect_log("AH00484", optional=True)
    count = 1000 if gateway.mpm == "event" else 25
    crowd = Crowd(gateway, count)
    a.wait_waiting(1)
    let_wait(gateway, count)
    a.release()
    answers = crowd.answers()
    assert [answer.message()["id"] for answer in answers] == list(range(count))
    assert {answer.message()["result"]["server"] for answer in answers} == {"a"}
    assert holds(a) == 1
    said = [status(answer) for answer in answers]
    assert (said.count("miss"), said.count("hit")) == (1, count - 1)


def switches(gateway):
    """How often threads of the children have gone to sleep."""
    found = 0
    for task in glob.glob("/proc/%d/task/*/status" % gateway.children()[0]):
        with open(task, encoding="ascii") as status_file:
            found += int(re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)", status_file.read())[1])
    return found


def test_waiting_for_an_own_child_is_not_looking_again_and_again(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, children=1, threads=16)
    if gateway.mpm != "event":
        pytest.skip("each thread that waits looks for the end of its child")
    crowd = Crowd(gateway, 20)
    a.wait_waiting(1)
    let_wait(gateway, 20)

    def is_quiet():
        before = switches(gateway)
        time.sleep(0.3)
        return switches(gateway) - before < 30
    wait_until(is_quiet, "nothing to run while all wait")
    a.release()
    assert len(crowd.answers()) == 20
    assert holds(a) == 1


def test_users_do_not_wait_for_each_other(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, threads=64)
    crowds = [Crowd(gateway, 5, head=[ACCEPT, JSON, basic(*who)])
              for who in (("alice", "wonder"), ("bob", "builder"))]
    a.wait_waiting(2)
    a.release()
    for crowd in crowds:
        crowd.answers()
    assert holds(a) == 2


def test_coalescing_can_be_switched_off(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, cache=("MCPCacheTool * 60s", "MCPCacheCoalesce Off"))
    crowd = Crowd(gateway, 5)
    a.wait_waiting(5)
    a.release()
    crowd.answers()


def test_who_could_not_ask_the_store_leads_only_those_who_could_not(caching, server, cache_redis):
    """The leader's question timed out: his answer may have been invalidated, for all he knows."""
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, threads=64, store=cache_redis.store, timeout="500ms")
    cache_redis.signal(signal.SIGSTOP)
    first = Crowd(gateway, 2)
    a.wait_waiting(1)
    let_wait(gateway, 2)
    cache_redis.signal(signal.SIGCONT)
    then = Crowd(gateway, 5)
    a.wait_waiting(2)
    let_wait(gateway, 7)
    a.release()
    answers = first.answers() + then.answers()
    assert [answer.message()["id"] for answer in answers] == [*range(2), *range(5)]
    assert holds(a) == 2


def test_without_a_store_equal_misses_still_make_one_call(caching, server, cache_redis):
    redis = cache_redis
    a = server(era="stateless")
    redis.kill()
    gateway = caching(a, location=AUTH, store=redis.store, threads=64)
    gateway.expect_log("MCP4004")
    gateway.expect_log("MCP4003", optional=True)
    crowd = Crowd(gateway, 50)
    a.wait_waiting(1)
    let_wait(gateway, 50)
    a.release()
    crowd.answers()
    assert holds(a) == 1


def failing_first(kind):
    """The first call fails in its way, the others are answered."""
    def answer(peer, message):
        if len(tool.calls) == 1:
            wait_until(lambda: tool.go, "the test")
            if kind == "drops":
                peer.close()
            if kind == "says nothing":
                peer.wait_gone()
            return peer.answer(b"no", status="503 Down", content_type="text/plain")
        return as_json(peer, message, {"n": len(tool.calls)})
    tool = Tool(answer)
    tool.go = False
    return tool


@pytest.mark.parametrize("kind", ["drops", "503", "says nothing"])
def test_if_the_leader_fails_the_next_takes_over(caching, backend, kind):
    tool = failing_first(kind)
    gateway = caching(backend(tool), location=AUTH, threads=64,
                      tuning=["MCPProxyResponseTimeout 3s"])
    gateway.expect_log(r"MCP2045|MCP204\d|AH\d+", optional=True)
    crowd = Crowd(gateway, 20)
    wait_until(lambda: tool.calls, "the leader")
    let_wait(gateway, 20)
    tool.go = True
    answers = crowd.answers()
    good = [answer for answer in answers if answer.status == 200]
    assert len(good) == 19
    assert len(tool.calls) == 2
    assert {answer.message()["result"]["n"] for answer in good} == {2}


def test_if_the_leader_goes_away_the_next_takes_over(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, threads=64)
    first = Crowd(gateway, 1)
    a.wait_waiting(1)
    others = Crowd(gateway, 10)
    let_wait(gateway, 11)
    first.connections[0].close()
    wait_until(lambda: holds(a) == 2, "the next leader")
    a.release()
    assert {answer.status for answer in others.answers()} == {200}
    assert holds(a) == 2


def test_if_the_leaders_child_is_killed_the_next_takes_over(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, children=3, threads=64)
    gateway.expect_log("AH00052", optional=True)
    gateway.expect_log("AH00051", optional=True)
    leader = Crowd(gateway, 1)
    a.wait_waiting(1)
    other = Crowd(gateway, 40)
    let_wait(gateway, 41)
    wait_until(lambda: len(gateway.access()) == 0, "nobody to be answered")
    for child in child_of(gateway, leader):
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: holds(a) >= 2, "the next leader")
    a.release()
    leader.connections[0].close()
    good = 0
    for client in other.connections:
        try:
            good += client.response().finish().status == 200
        except (EOFError, OSError, AssertionError):
            pass  # it was in the killed child
        client.close()
    assert good >= 1
    assert holds(a) == 2


def child_of(gateway, crowd):
    """The child that has the crowd's one connection."""
    client = crowd.connections[0].socket
    ends = ["%04X" % address[1] for address in (client.getpeername(), client.getsockname())]
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    inode = [row[9] for row in rows if [end.split(":")[1] for end in row[1:3]] == ends][0]
    found = []
    for pid in gateway.children():
        folder = "/proc/%d/fd" % pid
        for name in os.listdir(folder):
            try:
                if os.readlink(folder + "/" + name) == "socket:[%s]" % inode:
                    found.append(pid)
            except OSError:
                pass
    assert found
    return found


def test_an_answer_that_may_not_be_stored_lets_all_go_on(caching, backend):
    ready = threading.Event()

    def answer(peer, message):
        if len(tool.calls) == 1:
            peer.wait(ready)
        as_json(peer, message, {"isError": True})
    tool = Tool(answer)
    gateway = caching(backend(tool), location=AUTH, threads=64)
    crowd = Crowd(gateway, 10)
    wait_until(lambda: tool.calls, "the leader")
    let_wait(gateway, 10)
    ready.set()
    assert {answer.status for answer in crowd.answers()} == {200}
    assert len(tool.calls) == 10


def test_one_who_waits_and_leaves_is_forgotten(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, threads=64)
    leader = Crowd(gateway, 1)
    a.wait_waiting(1)
    waiters = Crowd(gateway, 20)
    let_wait(gateway, 21)
    for client in waiters.connections:
        client.close()
    wait_until(lambda: len(gateway.access()) == 20, "them to be gone")
    a.release()
    assert leader.answers()[0].status == 200
    assert holds(a) == 1


def test_one_who_comes_after_an_invalidation_does_not_get_what_was_asked_before(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH, threads=64)
    before = Crowd(gateway, 2)
    a.wait_waiting(1)
    let_wait(gateway, 2)
    gateway.forget()
    after = Crowd(gateway, 2)
    a.wait_waiting(2)
    a.release()
    before.answers()
    after.answers()
    assert holds(a) == 2


class Versions:
    """A tool that counts, and fails when it is told to."""

    def __init__(self):
        self.fails = None
        self.hold = None
        self.tool = Tool(self.answer)

    def answer(self, peer, message):
        number = len(self.tool.calls)
        if self.hold:
            peer.wait(self.hold)
        if self.fails == "drop":
            peer.close()
        if self.fails:
            return peer.answer(b"x", status="%d Failed" % self.fails, content_type="text/plain")
        return as_json(peer, message, {"n": number})


STALE = ("MCPCacheTool * 100ms", "MCPCacheStale 1h")


@pytest.mark.parametrize("failure", [500, 502, 503, "drop", "gone"])
@pytest.mark.parametrize("alone", [False, True])
def test_an_old_value_stands_in_when_the_backend_fails(caching, backend, failure, alone):
    versions = Versions()
    made = backend(versions.tool)
    gateway = caching(made, location=AUTH, cache=STALE, alone=alone)
    gateway.expect_log(r"MCP204\d|AH\d+", optional=True)
    first = ask(gateway).message()["result"]
    if failure == "gone":
        made.close()
    versions.fails = failure
    wait_until(lambda: said(gateway).startswith("mcp; hit; ttl=-"), "it to be stale")
    answer = ask(gateway)
    assert (answer.status, answer.message()["result"]) == (200, first)
    assert answer.header("Content-Type") == "application/json"


def said(gateway):
    return ask(gateway).header("Cache-Status", "")


def test_a_tools_own_error_is_not_hidden_by_an_old_value(caching, backend):
    versions = Versions()
    gateway = caching(backend(versions.tool), location=AUTH, cache=STALE)
    ask(gateway)
    versions.fails = 404
    wait_until(lambda: ask(gateway).status == 404, "the error to come through")


def test_others_get_the_old_value_while_one_refreshes(caching, backend):
    versions = Versions()
    gateway = caching(backend(versions.tool), location=AUTH, cache=STALE)
    ask(gateway)
    versions.hold = threading.Event()
    calls = len(versions.tool.calls)
    refreshing = []

    def refresh():
        """Asks until it is the one whose request goes to the backend."""
        refreshing.append(ask(gateway))
    clients = []
    while len(versions.tool.calls) == calls:
        client = threading.Thread(target=refresh)
        client.start()
        client.join(0.02)
        clients.append(client)
    answers = [ask(gateway) for _ in range(10)]
    assert {answer.message()["result"]["n"] for answer in answers} == {1}
    assert all(answer.header("Cache-Status").startswith("mcp; hit; ttl=-") for answer in answers)
    versions.hold.set()
    for client in clients:
        client.join(DEADLINE)
    assert len(versions.tool.calls) == calls + 1
    assert 2 in {answer.message()["result"]["n"] for answer in refreshing}


def test_without_stale_an_old_value_is_gone(caching, backend):
    versions = Versions()
    gateway = caching(backend(versions.tool), location=AUTH, cache=("MCPCacheTool * 100ms",))
    ask(gateway)
    versions.fails = 503
    wait_until(lambda: ask(gateway).status == 503, "the failure to come through")
