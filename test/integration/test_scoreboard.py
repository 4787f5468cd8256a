# SPDX-License-Identifier: Apache-2.0
"""mod_status and balancer-manager show what they should."""
import os
import re
import signal

import pytest

from harness.client import Mcp
from harness.wait import wait_until
from test_members import MANAGER


def busy(gw):
    """The Busy column of balancer-manager, of all members."""
    html = gw.request("GET", "/manager", [("Referer", gw.origin + "/manager")]).body.decode()
    # Elected, Busy, Load
    found = re.findall(r"<td>\d+</td><td>(\d+)</td><td>-?\d+</td><td>", html)
    assert len(found) == len(gw.backends), html
    return [int(n) for n in found]


def maintained(gw):
    """mod_status, for the next time: httpd counts when it looks at its queues, as for this idle
    connection."""
    gw.connect().request("GET", "/server-status?auto").finish()
    return gw.status()


@pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="event MPM")
def test_streams_are_suspended_connections_and_no_busy_workers(gateway, server):
    a = server("a")
    gw = gateway(a, tuning=["KeepAliveTimeout 1"])
    client = Mcp(gw).initialize()
    streams = [client.listen() for _ in range(30)]

    def shows_them():
        status = maintained(gw)
        return status["ConnsAsyncSuspended"] == "30" and int(status["ConnsTotal"]) >= 30 and status

    status = wait_until(shows_them, "thirty suspended connections")
    assert status["MCPStreams"] == status["MCPStreamsTotal"] == "30"
    assert status["MCPRequests"] == "1", "initialize; the streams are going on"
    assert int(status["BusyWorkers"]) <= 2, "the one that answers this, and none of a stream"
    assert sum(status["Scoreboard"].count(c) for c in "RWKCLG") <= 2
    for stream in streams:
        stream.connection.close()

    def shows_none():
        status = maintained(gw)
        return status["ConnsAsyncSuspended"] == status["MCPStreams"] == "0" \
            and status["MCPRequests"] == "31"

    wait_until(shows_none, "no suspended connection to be left", 60)


def test_the_page_for_people_has_a_section(gateway, server):
    gw = gateway(server("a"))
    Mcp(gw).initialize().listen()
    html = gw.request("GET", "/server-status").body.decode()
    assert "<h2>MCP gateway</h2>" in html and "1 event streams open" in html


def test_members_are_busy_with_what_is_in_flight(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=MANAGER)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    streams = [client.listen() for client in clients]
    wait_until(lambda: busy(gw) == [len(a.sessions), len(b.sessions)], "the streams to be counted")
    for stream in streams:
        stream.connection.close()
    wait_until(lambda: busy(gw) == [0, 0], "the members to be idle")


@pytest.mark.parametrize("children", [1, 2])
def test_a_killed_child_leaves_no_member_busy(gateway, server, children):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=MANAGER, children=children, threads=8)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    for client in clients:
        client.listen()
    wait_until(lambda: sum(busy(gw)) == 6, "the streams to be counted")
    gw.expect_log("AH00052", optional=True)
    for pid in gw.children():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gw._answers() and busy(gw) == [0, 0], "the members to be idle")
    stream = Mcp(gw).initialize().listen()
    wait_until(lambda: sum(busy(gw)) == 1, "the new stream to be counted")
    stream.connection.close()
    wait_until(lambda: busy(gw) == [0, 0], "the members to be idle again")
