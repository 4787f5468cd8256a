# SPDX-License-Identifier: Apache-2.0
"""A child that is killed: its streams are gone, and nothing else."""
import os
import re
import signal

import pytest

from harness.client import Mcp
from harness.fleet import Fleet
from harness.wait import FULL, settles, wait_until

from test_members import MANAGER

METRICS = ["<Location /metrics>", "  SetHandler mcp-metrics", "</Location>"]
STREAMS = 60


@pytest.fixture
def fleet(keep):
    return lambda gw, **options: keep(Fleet(gw, **options))


def kill(gw, pid):
    """kill -9, and wait until httpd has noticed and has as many children as before."""
    count = len(gw.children())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in gw.children(), "the child's end")
    wait_until(lambda: len(gw.children()) >= count, "a child in its place")


def gauge(gw, name="mcp_router_sse_connections"):
    text = gw.request("GET", "/metrics").body.decode()
    return float(re.search(r"^%s(?:\{[^}]*\})? ([\d.]+)$" % name, text, re.M)[1])


def busy(gw):
    """The members' busy counts as balancer-manager shows them."""
    here = [("Referer", gw.origin + "/manager")]
    text = gw.request("GET", "/manager?xml=1", here).body.decode()
    return [int(count) for count in re.findall(r"<httpd:busy>(\d+)</httpd:busy>", text)]


def alive(streams):
    return [stream for stream in streams if not stream.poll().ended]


def streams_on_children(gateway, server, count=STREAMS, **options):
    """(gateway, servers, clients, streams): standing streams spread over three children."""
    servers = [server("a"), server("b")]
    gw = gateway(*servers, server=[*MANAGER, *METRICS], children=3, threads=4, **options)
    gw.expect_log("AH00484", optional=True)
    clients = [Mcp(gw).initialize() for _ in range(count)]
    streams = [client.listen() for client in clients]
    return gw, servers, clients, streams


def test_sessions_survive_and_other_childrens_streams_are_untouched(gateway, server):
    gw, servers, clients, streams = streams_on_children(gateway, server)
    homes = [client.where() for client in clients]
    for pid in gw.children():
        before = alive(streams)
        kill(gw, pid)
        if len(settles(lambda: alive(streams), 0.3)) < len(before):
            break
    left = alive(streams)
    assert 0 < len(left) < STREAMS, "one child had all of them"
    for s in servers:
        s.push(None, {"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    assert all("message" in stream.next_event()["data"] for stream in left)
    assert [client.where() for client in clients] == homes
    assert sum(len(s.open_streams()) for s in servers) == len(left), "the servers know"


def test_counters_are_right_after_kills(gateway, server):
    gw, _, clients, streams = streams_on_children(gateway, server)
    assert gauge(gw) == STREAMS and sum(busy(gw)) == STREAMS
    for pid in gw.children():
        kill(gw, pid)
        left = len(settles(lambda: alive(streams), 0.3))
        wait_until(lambda: gauge(gw) == left, "the gauge to be %d" % left)
        wait_until(lambda: sum(busy(gw)) == left, "the members to be %d times busy" % left)
    streams = [client.listen() for client in clients]
    assert gauge(gw) == STREAMS and sum(busy(gw)) == STREAMS
    for stream in streams:
        stream.connection.close()
    wait_until(lambda: gauge(gw) == 0 and busy(gw) == [0, 0], "nothing to be left")


def test_kills_under_load_lose_only_what_the_child_had(gateway, server, fleet):
    """Nobody gets a wrong answer, all streams come back, and no session is lost."""
    servers = [server("a"), server("b")]
    gw = gateway(*servers, server=METRICS, children=3, threads=8, spare=6)
    gw.expect_log("AH00484", optional=True)
    ships = fleet(gw)
    ships.listen(100)
    ships.call(12, pause=0.002)
    sessions = [set(s.sessions) for s in servers]
    for _ in range(40 if FULL else 6):
        kill(gw, gw.children()[0])
        ships.go_on(50)
    ships.wait_listening(100)
    assert not ships.wrong and not ships.refused, (ships.wrong[:3], ships.refused[:3])
    assert ships.broken, "no stream was on a child that was killed"
    assert [set(s.sessions) for s in servers] == sessions
    wait_until(lambda: gauge(gw) == 100, "the gauge to be right")
    ships.close()
    wait_until(lambda: gauge(gw) == 0, "the gauge to be right in the end")
