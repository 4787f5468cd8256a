# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: what goes wrong in a rescue harms nobody else, and no more than it must."""
import json
import os
import signal

from harness import tags
from harness.client import Mcp, call
from harness.mcpserver import _reply
from harness.wait import wait_until

from test_rescue import _gateway, opened, opening, rescuing, two  # noqa: F401

STATUS = ["<Location /status>", "  SetHandler mcp-status", "</Location>"]


def test_a_request_that_fits_no_member_puts_none_in_error(gateway, server):
    """It names two sessions of one server: no other one can have both."""
    gw, home, other, client = two(gateway, server, member="retry=600", server=STATUS)
    second = opened(gw)
    while len(home.sessions) < 2:
        second = opened(gw)
    home.kill()
    stray = Mcp(gw, path="/mcp?session_id=" + second.session)
    stray.session = client.session
    stray.post(call("whoami", 1))
    states = {m["url"]: m["state"] for m in gw.request("GET", "/status?json").json()["members"]}
    assert states == {home.url: "error", other.url: "ok"}
    assert client.where() == other.name


def test_head_opens_nothing(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.sessions.clear()
    assert gw.request("HEAD", "/mcp", client.headers()).status == 404
    assert not opening(other) and len(opening(home)) == 1


def test_the_session_in_the_query_is_not_asked_for_when_another_is_opened(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.kill()
    stray = Mcp(gw, path="/mcp?x=1&session_id=%s&y=2" % client.session)
    assert stray.where() == other.name
    assert opening(other)[-1].target == "/mcp?x=1&y=2"


def test_a_member_that_dies_after_initialize_is_not_the_end(gateway, server):
    servers = [server(name) for name in "abc"]
    gw = rescuing(gateway, *servers, member="retry=600")
    client = opened(gw)
    home = next(s for s in servers if s.sessions)
    died = []

    def dies_then(each):
        really = each._post

        async def post(seen, reader, writer):
            if died or seen.message().get("method") != "notifications/initialized":
                return await really(seen, reader, writer)
            died.append(each)
            each._server.close()
            raise ConnectionResetError()

        each._post = post

    for each in servers:
        dies_then(each)
    home.kill()
    where = client.where()
    assert died and where not in (home.name, died[0].name)


def test_a_member_that_cannot_open_a_session_now_is_not_the_last_to_be_asked(gateway, server):
    servers = [server(name) for name in "abc"]
    gw = rescuing(gateway, *servers)
    client = opened(gw)
    home = next(s for s in servers if s.sessions)
    failed = []

    def fails_once(each):
        really = each._open

        async def open_it(message, reader, writer):
            if failed:
                return await really(message, reader, writer)
            failed.append(each)
            return _reply(writer, 503, None)

        each._open = open_it

    for each in servers:
        fails_once(each)
    home.kill()
    where = client.where()
    assert failed and where not in (home.name, failed[0].name)


def test_who_waits_for_a_rescue_when_its_child_is_to_go_has_its_answer_with_it(gateway, server):
    gw, home, other, client = two(gateway, server, mpm="event")
    other.opening_waits = True
    home.kill()
    connections = [gw.connect(), gw.connect()]
    body = json.dumps(call("whoami")).encode()
    for connection in connections:
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
        other.wait_waiting(1)
    wait_until(lambda: sum(line.tag == tags.CONNECT_FAILED for line in gw.log()) == 2, "both")
    gw.graceful()
    other.release()
    for connection in connections:
        assert connection.response().json()["result"]["server"] == other.name


def test_the_claim_of_a_killed_child_is_in_nobodys_way(gateway, server):
    gw, home, other, client = two(gateway, server, mpm="event")
    gw.expect_log("AH00052", optional=True)
    other.opening_waits = True
    home.kill()
    body = json.dumps(call("whoami")).encode()
    connection = gw.connect()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    other.wait_waiting(1)
    for pid in gw.children():
        os.kill(pid, signal.SIGKILL)
    other.wait_waiting(0)
    other.opening_waits = False
    wait_until(gw.children, "another child")
    assert client.where() == other.name
