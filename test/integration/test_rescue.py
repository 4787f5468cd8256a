# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: a session whose member is gone goes on elsewhere, and its client notices nothing."""
import base64
import json
import os

import pytest

from harness import metrics, tags
from harness.redisd import Redis
from harness.client import Mcp, assert_rpc_error, basic, call, rpc
from harness.wait import wait_until

from test_members import MANAGER, set_status

AFFINITIES = ["table", "sealed", "redis"]
PARAMS = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}, "roots": {"listChanged": True}},
    "clientInfo": {"name": "the client's own", "version": "1.2.3"},
}


@pytest.fixture(name="gateway", params=AFFINITIES)
def _gateway(request, stage):
    """A gateway for each way to find a session's member, with MCPProxyRescue On."""
    lines = ["MCPProxyRescue On"]
    if request.param != "table":
        key = stage.directory / "key"
        key.write_text(base64.b64encode(os.urandom(32)).decode() + "\n", encoding="ascii")
        key.chmod(0o600)
        lines.append('MCPProxySessionKey "file:%s"' % key)
    if request.param == "sealed":
        lines.append("MCPProxyAffinity sealed")
    if request.param == "redis":
        lines.append("MCPProxySessionStore " + stage.keep(Redis()).store)

    def make(*servers, server=(), **options):
        return stage.gateway(*servers, server=[*lines, *server], **options)

    return make


def rescuing(gateway, *servers, **options):
    """A gateway that rescues, and does not mind that members die."""
    options["server"] = MANAGER + options.pop("server", [])
    gw = gateway(*servers, **options)
    for tag in (tags.CONNECT_FAILED, tags.BACKEND_GONE, tags.BACKEND_BROKE, "AH01170"):
        gw.expect_log(tag, optional=True)
    return gw


def opened(gw, **options):
    """A client that has opened a session with PARAMS."""
    client = Mcp(gw, **options)
    answer = client.post(rpc("initialize", PARAMS, 0))
    assert answer.status == 200, answer.body
    client.session = answer.header("Mcp-Session-Id")
    assert client.post(rpc("notifications/initialized", None, None)).status == 202
    return client


def two(gateway, make, **options):
    """Two servers and a client: the gateway, the server that has its session, the other, it."""
    a, b = make("a"), make("b")
    who = options.pop("client", {})
    gw = rescuing(gateway, a, b, **options)
    client = opened(gw, **who)
    home, other = (a, b) if a.sessions else (b, a)
    return gw, home, other, client


def methods(server):
    """What was POSTed there, by method."""
    return [r.message().get("method") for r in server.requests if r.method == "POST"]


def opening(server):
    """The messages with which a session was opened there, last."""
    return [r for r in server.requests if r.body and r.message().get("method") == "initialize"]


def assert_opened_as_by_the_client(server):
    opener = opening(server)[-1]
    assert opener.message()["params"] == PARAMS
    assert opener.header("Mcp-Session-Id") is None
    at = server.requests.index(opener)
    after = server.requests[at + 1]
    assert after.message() == {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert after.header("Mcp-Session-Id") in server.sessions


def test_a_session_of_a_dead_member_goes_on_at_another(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.kill()
    assert client.where() == other.name
    assert_opened_as_by_the_client(other)
    for _ in range(3):
        assert client.where() == other.name
    assert methods(other) == ["initialize", "notifications/initialized"] + 4 * ["tools/call"]


def test_a_session_that_its_member_does_not_know_any_more_goes_on(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.sessions.clear()
    other.kill()
    assert client.where() == home.name
    assert_opened_as_by_the_client(home)
    assert client.where() == home.name
    assert len(opening(home)) == 2


@pytest.mark.parametrize("single", [True, False], ids=["single", "balancer"])
def test_a_session_goes_on_when_the_only_server_was_restarted(gateway, server, single):
    only = server("only")
    gw = rescuing(gateway, only, single=single)
    client = opened(gw)
    only.kill()
    only.listen()
    assert client.where() == "only"
    assert_opened_as_by_the_client(only)
    assert client.delete().status == 204
    assert not only.sessions


@pytest.mark.parametrize("flag", ["status_D", "status_S"], ids=["disabled", "stopped"])
def test_a_session_of_a_member_that_is_out_goes_on_at_another(gateway, server, flag):
    gw, home, other, client = two(gateway, server)
    set_status(gw, home.url, **{flag: 1})
    seen = len(home.requests)
    assert client.where() == other.name
    assert_opened_as_by_the_client(other)
    assert client.where() == other.name
    assert len(home.requests) == seen


def test_a_session_of_a_member_that_is_out_is_404_where_there_is_no_other(gateway, server):
    gw, home, other, client = two(gateway, server)
    set_status(gw, home.url, status_D=1)
    set_status(gw, other.url, status_D=1)
    assert_rpc_error(client.post(call("whoami", 7)), 404, 7)


def test_a_draining_member_keeps_its_session(gateway, server):
    gw, home, other, client = two(gateway, server)
    set_status(gw, home.url, status_N=1)
    assert client.where() == home.name
    assert not opening(other)


def test_what_is_in_redis_needs_a_key_of_its_own(stage, server):
    lines = ["MCPProxyRescue On", "MCPProxySessionStore redis://127.0.0.1:1/0"]
    status, said = stage.gateway(server(), start=False, server=lines).check_config()
    assert status and "MCPProxySessionKey" in said
    lines.pop()
    status, said = stage.gateway(server(), start=False, server=lines).check_config()
    assert status == 0, said


def test_two_members_of_one_name_are_an_error(stage, server):
    gw = stage.gateway(server("a"), server("b"), start=False, server=["MCPProxyRescue On"])
    gw.member = "route=same"
    status, said = gw.check_config()
    assert status and "MCPProxyRescue" in said and "route=same" in said


def test_many_sessions_of_one_dead_member_go_on(gateway, server):
    a, b = server("a"), server("b")
    gw = rescuing(gateway, a, b, children=2, threads=8, member="retry=0")
    clients = [opened(gw) for _ in range(120)]
    count = len(a.sessions)
    assert count > 30
    a.kill()
    connections = [gw.connect() for _ in clients]
    for number, (client, connection) in enumerate(zip(clients, connections)):
        body = json.dumps(call("whoami", number)).encode()
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    for number, connection in enumerate(connections):
        answer = connection.response().json()
        assert answer["id"] == number and answer["result"]["server"] == "b"
    assert len(b.sessions) == len(clients)


def test_off_is_the_default(stage, server):
    only = server("only")
    gw = stage.gateway(only)
    client = opened(gw)
    only.sessions.clear()
    assert_rpc_error(client.post(call("whoami", 3)), 404, 3, code=-32001)


def test_the_client_goes_by_its_old_id_only(gateway, server):
    gw, home, other, client = two(gateway, server)
    other.answers_with_session = True
    home.kill()
    answer = client.post(call("whoami"))
    assert answer.status == 200
    new = next(iter(other.sessions))
    assert new != client.session
    assert new.encode() not in answer.body
    assert answer.header("Mcp-Session-Id") in (None, client.session)
    for form in ("/mcp?session_id=%s", "/mcp?sessionId=%s"):
        stray = Mcp(gw, path=form % client.session)
        assert stray.where() == other.name
        assert other.requests[-1].target == form % new
    # Nobody can use the new one but through the old one.
    assert client.delete().status == 204
    assert not other.sessions
    assert client.post(call("whoami")).status == 404
    assert new not in (client.session, None)


def test_a_rescued_session_is_still_its_owners_alone(gateway, server):
    auth = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users", "Require valid-user"]
    gw, home, other, alice = two(
        gateway, server, location=auth, client={"headers": [basic("alice", "wonder")]}
    )
    home.kill()
    bob = Mcp(gw, headers=[basic("bob", "builder")])
    bob.session = alice.session
    assert bob.post(call("whoami")).status == 404
    assert not opening(other), "another identity's request rescues nothing"
    assert alice.where() == other.name
    assert bob.post(call("whoami")).status == 404
    seen = [r.header("Authorization") for r in other.requests]
    assert set(seen) == {basic("alice", "wonder")[1]}


def test_requests_that_come_at_once_open_one_session(gateway, server):
    gw, home, other, client = two(gateway, server, children=3, threads=8)
    other.opening_waits = True
    home.kill()
    connections = [gw.connect() for _ in range(12)]
    for number, connection in enumerate(connections):
        body = json.dumps(call("whoami", number)).encode()
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    wait_until(lambda: other.waiting == 1, "the new session to be asked for")
    other.release()
    for number, connection in enumerate(connections):
        answer = connection.response().json()
        assert answer["id"] == number and answer["result"]["server"] == other.name
    assert len(opening(other)) == 1
    assert len(other.sessions) == 1


def test_a_call_that_had_been_sent_is_not_sent_again(gateway, server):
    gw, home, other, client = two(gateway, server)
    connection = gw.connect()
    body = json.dumps(call("hold", 9)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    home.kill()
    assert_rpc_error(connection.response(), 502, 9)
    assert not opening(other)
    # What comes next may.
    assert client.where() == other.name
    assert methods(other).count("tools/call") == 1


@pytest.mark.parametrize(
    "message",
    [
        rpc("ping", ident="p"),
        rpc("tools/list", {}),
        rpc("prompts/list", {}),
        rpc("resources/list", {}),
        rpc("resources/templates/list", {}),
        rpc("resources/read", {"uri": "test://x"}),
    ],
    ids=lambda message: message["method"],
)
def test_a_request_that_only_reads_is_sent_again(gateway, server, message):
    gw, home, other, client = two(gateway, server)
    home.holds_everything = True
    connection = gw.connect()
    body = json.dumps(message).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    home.kill()
    answer = connection.response().json()
    assert answer["id"] == message["id"] and answer["result"]["server"] == other.name
    assert_opened_as_by_the_client(other)


def test_a_request_that_only_reads_is_sent_again_to_a_member_that_lives(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.holds_everything = True
    connection = gw.connect()
    body = json.dumps(rpc("tools/list", {}, 4)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    home.holds_everything = False
    home.restart(forget=False)
    assert connection.response().json()["result"]["server"] == home.name
    assert not opening(other)


TOOLS = [
    {"name": "hold", "annotations": {"readOnlyHint": True}},
    {"name": "echo", "annotations": {"readOnlyHint": False}},
    {"name": "whoami"},
]


@pytest.mark.parametrize("by_stream", [False, True], ids=["json", "stream"])
def test_a_call_of_a_tool_that_only_reads_is_sent_again(gateway, server, by_stream):
    gw, home, other, client = two(gateway, server)
    home.tools, home.lists_by_stream = TOOLS, by_stream
    assert client.post(rpc("tools/list", {})).message()["result"]["tools"] == TOOLS
    connection = gw.connect()
    body = json.dumps(call("hold", 9)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    home.kill()
    other.wait_waiting(1)
    other.release()
    answer = connection.response().json()
    assert answer["id"] == 9 and answer["result"]["server"] == other.name


@pytest.mark.parametrize("change", ["task", "unlisted"])
def test_a_call_that_may_change_something_is_not_sent_again(gateway, server, change):
    gw, home, other, client = two(gateway, server)
    home.tools = TOOLS
    client.post(rpc("tools/list", {}))
    message = call("hold", 9)
    if change == "task":
        message["params"]["task"] = {}
    else:
        home.tools = [{"name": "hold"}]
        client.post(rpc("tools/list", {}))
    connection = gw.connect()
    body = json.dumps(message).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    home.kill()
    assert_rpc_error(connection.response(), 502, 9)
    assert not opening(other)


@pytest.mark.parametrize("kind", ["response", "cancelled", "progress", "initialized"])
def test_what_speaks_of_the_lost_session_is_taken_and_dropped(gateway, server, kind):
    message = {
        "response": {"jsonrpc": "2.0", "id": 0, "result": {"of": "the past"}},
        "cancelled": rpc("notifications/cancelled", {"requestId": 1}, None),
        "progress": rpc("notifications/progress", {"progressToken": 1, "progress": 1}, None),
        "initialized": rpc("notifications/initialized", None, None),
    }[kind]
    gw, home, other, client = two(gateway, server)
    home.kill()
    answer = client.post(message)
    assert answer.status == 202 and not answer.body
    assert methods(other) == ["initialize", "notifications/initialized"]
    assert client.where() == other.name
    assert not other.replies


def test_delete_opens_nothing_and_is_the_end(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.kill()
    assert client.delete().status == 404
    assert client.post(call("whoami")).status == 404
    assert not opening(other)


def test_a_member_that_opens_no_session_makes_it_404(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.sessions.clear()
    home.refuses_to_open = other.refuses_to_open = True
    assert_rpc_error(client.post(call("whoami", "x")), 404, "x")
    home.refuses_to_open = other.refuses_to_open = False
    assert client.post(call("whoami")).status == 404, "what was kept of it is gone"
    assert opened(gw).where() in ("a", "b")


def test_nobody_there_is_404_and_the_session_goes_on_later(gateway, server):
    gw, home, other, client = two(gateway, server, member="retry=0")
    home.kill()
    other.kill()
    assert_rpc_error(client.post(call("whoami", 1)), 404, 1)
    other.listen()
    assert client.where() == other.name


@pytest.mark.parametrize("single", [True, False], ids=["single", "balancer"])
def test_a_session_goes_on_when_its_only_server_comes_back_later(gateway, server, single):
    only = server("only")
    gw = rescuing(gateway, only, single=single)
    client = opened(gw)
    only.kill()
    assert_rpc_error(client.post(call("whoami", 1)), 404, 1)
    only.listen()
    assert client.where() == "only"
    assert_opened_as_by_the_client(only)


def test_a_session_is_rescued_three_times_a_minute_and_no_more(gateway, server):
    only = server("only")
    gw = rescuing(gateway, only)
    client = opened(gw)
    for _ in range(3):
        only.sessions.clear()
        assert client.where() == "only"
    only.sessions.clear()
    assert_rpc_error(client.post(call("whoami", 1)), 404, 1)
    assert len(opening(only)) == 4


def test_a_server_that_refuses_what_it_has_just_opened_does_not_loop(gateway, server):
    only = server("only")
    gw = rescuing(gateway, only)
    client = opened(gw)
    only.sessions.clear()
    only.forgets_at_once = True
    assert client.post(call("whoami", 1)).status == 404
    assert len(opening(only)) == 2
    assert client.post(call("whoami", 1)).status == 404


def test_an_answer_to_initialize_may_be_an_event_stream(gateway, server):
    gw, home, other, client = two(gateway, server)
    other.opens_by_stream = True
    home.kill()
    assert client.where() == other.name
    assert_opened_as_by_the_client(other)


def test_an_answer_longer_than_the_one_before_it_has_room(gateway, server):
    """The answers of a rescue come into one buffer, one after the other."""
    gw, home, other, client = two(gateway, server)
    other.instructions = "i" * 30000
    other.more_headers = [("X-Long-%d" % i, "h" * 7500) for i in range(2)]
    home.kill()
    for _ in range(3):
        assert client.where() == other.name
    assert_opened_as_by_the_client(other)


def test_rescues_one_after_the_other_follow_the_members(gateway, server):
    gw, home, other, client = two(gateway, server, member="retry=0")
    for _ in range(2):
        home.kill()
        assert client.where() == other.name
        home.listen()
        home, other = other, home


def test_a_rescued_session_survives_a_graceful_restart(gateway, server):
    gw, home, other, client = two(gateway, server, mpm="event")
    home.kill()
    assert client.where() == other.name
    gw.graceful()
    assert client.where() == other.name
    assert len(opening(other)) == 1


def test_a_session_opened_before_a_graceful_restart_can_be_rescued_after_it(gateway, server):
    gw, home, other, client = two(gateway, server, mpm="event")
    gw.graceful()
    home.kill()
    assert client.where() == other.name
    assert_opened_as_by_the_client(other)


def streaming(gateway, make, **options):
    """As two(), with the standing stream open."""
    gw, home, other, client = two(gateway, make, **options)
    stream = client.listen()
    home.wait_streams(1)
    home.push(next(iter(home.sessions)), {"from": home.name}, ident=1)
    assert json.loads(stream.next_event()["data"]) == {"from": home.name}
    return gw, home, other, client, stream


def hear(stream, there):
    """Something said on the one session of that server comes on this stream, whole."""
    wait_until(
        lambda: [each.session in there.sessions for each in there.open_streams()] == [True],
        "the stream at server %s" % there.name,
    )
    session = next(iter(there.sessions))
    there.push(session, {"from": there.name}, ident="x")
    event = stream.next_event()
    assert event["id"].endswith("x") and json.loads(event["data"]) == {"from": there.name}
    return event["id"]


def test_a_standing_stream_goes_on_when_its_member_dies(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.kill()
    hear(stream, other)
    assert_opened_as_by_the_client(other)
    assert other.streams[0].request.header("Last-Event-ID") is None
    assert client.where() == other.name
    # What it heard are whole events, and comments at most between them.
    for block in stream.poll().body.split(b"\n\n"):
        assert block == b"" or block.startswith((b":", b"id:"))
    assert client.delete().status == 204


def test_a_standing_stream_goes_on_with_its_restarted_server(gateway, server):
    only = server("only")
    gw = rescuing(gateway, only)
    client = opened(gw)
    stream = client.listen()
    only.wait_streams(1)
    # Restarted before the gateway comes back to it.
    only.restart()
    hear(stream, only)
    assert client.where() == "only"


def test_a_standing_stream_survives_one_death_after_the_other(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server, member="retry=0")
    for _ in range(2):
        home.kill()
        hear(stream, other)
        home.listen()
        home, other = other, home
    stream.connection.close()
    for each in (home, other):
        each.wait_streams(0)


def test_a_stream_and_calls_are_rescued_together(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server, children=3, threads=8)
    connections = [gw.connect() for _ in range(6)]
    home.kill()
    for number, connection in enumerate(connections):
        body = json.dumps(call("whoami", number)).encode()
        connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    for number, connection in enumerate(connections):
        answer = connection.response().json()
        assert answer["id"] == number and answer["result"]["server"] == other.name
    hear(stream, other)
    assert len(opening(other)) == 1


def test_a_stream_that_breaks_off_within_an_event_ends_and_can_be_opened_again(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.push_bytes(next(iter(home.sessions)), b"id: 2\ndata: {")
    stream.read_until(b"data: {")
    home.kill()
    assert stream.wait_end() == "broken"
    again = client.listen([("Last-Event-ID", "1")])
    hear(again, other)
    assert other.streams[0].request.header("Last-Event-ID") is None


def test_a_stream_that_a_living_server_breaks_off_is_its_clients_to_resume(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.end_streams(home.streams[0].session, clean=False)
    assert stream.wait_end() == "broken"
    again = client.listen([("Last-Event-ID", "1")])
    assert again.status == 200
    wait_until(lambda: home.streams[-1].request.header("Last-Event-ID") == "1", "the resumption")
    assert client.where() == home.name and not opening(other)


def test_a_stream_that_its_server_ends_is_over(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    home.end_streams(home.streams[0].session)
    assert stream.wait_end() == "complete"
    assert len(home.streams) == 1 and not opening(other)


def test_a_stream_ends_where_the_new_member_has_none(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    other.has_no_streams = True
    home.kill()
    assert stream.wait_end() == "broken"
    assert client.where() == other.name, "the session is rescued all the same"


def test_a_stream_ends_where_nobody_is_left(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    other.kill()
    home.kill()
    assert stream.wait_end() == "broken"
    assert client.post(call("whoami")).status == 404


def test_a_client_that_leaves_while_it_is_rescued_leaves_nothing_behind(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server)
    other.opening_waits = True
    home.kill()
    other.wait_waiting(1)
    stream.connection.close()
    other.wait_waiting(0)
    other.opening_waits = False
    # The claim was given back: nobody waits for who has left.
    assert client.where() == other.name


def test_a_rescue_that_hangs_is_given_up(gateway, server):
    gw, home, other, client = two(
        gateway, server, location=["MCPProxyResponseTimeout 1s"], member="retry=0"
    )
    gw.expect_log(tags.TIMEOUT)
    other.opening_waits = True
    home.kill()
    assert_rpc_error(client.post(call("whoami", 1)), 404, 1)
    other.opening_waits = False
    assert client.where() == other.name


def test_only_what_could_not_be_rescued_is_counted_as_lost(gateway, server):
    gw, home, other, client, stream = streaming(gateway, server, server=metrics.PLACES)
    assert metrics.scrape(gw)("mcp_router_sse_connections") == 1
    home.kill()
    hear(stream, other)
    assert client.where() == other.name
    now = metrics.scrape(gw)
    assert now("mcp_sessions_lost_total") == 0
    assert now("mcp_router_sse_connections") == 1
    assert now("mcp_router_sse_connections_total") == 1
    assert now("mcp_router_sse_errors_total") == 0
    stream.connection.close()
    wait_until(lambda: metrics.scrape(gw)("mcp_router_sse_connections") == 0, "the gauge to fall")
    other.sessions.clear()
    other.refuses_to_open = True
    assert client.post(call("whoami")).status == 404
    assert metrics.scrape(gw)("mcp_sessions_lost_total") == 1


@pytest.mark.parametrize("choice, first", [("newest", "complete"), ("any", None)])
def test_a_rescued_stream_is_still_its_sessions_one(gateway, server, choice, first):
    gw, home, other, client, stream = streaming(
        gateway, server, location=["MCPProxySessionStreams " + choice], children=2, threads=8
    )
    home.kill()
    hear(stream, other)
    second = client.listen()
    assert second.status == 200
    if first:
        assert stream.wait_end() == first
        hear(second, other)
    else:
        other.wait_streams(2)
