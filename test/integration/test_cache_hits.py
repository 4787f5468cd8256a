# SPDX-License-Identifier: Apache-2.0
"""What a hit looks like, sessions, coexistence with the other modules, and the life of httpd."""
import json

import pytest

from harness.caching import AUTH, Tool, as_json, as_stream, post, status
from harness.client import ACCEPT, JSON, Mcp, basic, call, rpc
from harness.wait import wait_until

SESSION = ("Mcp-Session-Id", "s1")


def ask(gateway, message=None, **options):
    options.setdefault("user", "alice")
    return post(gateway, message or call("echo", x=1), **options)


def counting(tool_calls=None):
    tool = Tool(lambda peer, message: as_json(peer, message, {"n": len(tool.calls)}))
    return tool


@pytest.mark.parametrize("accept, kind", [
    ("application/json, text/event-stream", "application/json"), ("*/*", "application/json"),
    ("text/event-stream", "text/event-stream"), ("application/*", "application/json"),
    ("application/json;q=0, text/event-stream;q=0.5", "text/event-stream")])
@pytest.mark.parametrize("as_events", [False, True])
def test_the_clients_accept_header_says_json_or_events(caching, backend, accept, kind, as_events):
    def script(peer, message):
        if as_events:
            as_stream(peer, {"jsonrpc": "2.0", "id": message["id"], "result": {"a": "b\nc"}})
        else:
            as_json(peer, message, {"a": "b\nc"})
    gateway = caching(backend(Tool(script)), location=AUTH)
    ask(gateway)
    answer = ask(gateway, call("echo", ident=2, x=1), headers=[("Accept", accept)])
    assert (status(answer), answer.header("Content-Type")) == ("hit", kind)
    assert answer.message() == {"jsonrpc": "2.0", "id": 2, "result": {"a": "b\nc"}}


def test_a_client_that_takes_neither_is_the_backends_to_refuse(caching, backend):
    gateway = caching(backend(counting()), location=AUTH)
    ask(gateway)
    assert status(ask(gateway, headers=[("Accept", "text/html")])) == "bypass"


def test_a_pretty_printed_result_stays_one_event(caching, backend):
    def script(peer, message):
        peer.answer(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"a": [1, 2]}},
                               indent=2).encode())
    gateway = caching(backend(Tool(script)), location=AUTH)
    ask(gateway)
    answer = ask(gateway, headers=[("Accept", "text/event-stream")])
    assert answer.message()["result"] == {"a": [1, 2]}
    assert answer.body.count(b"\n") == 3


def test_cache_status_tells_hit_miss_and_bypass(caching, backend):
    gateway = caching(backend(counting()), location=AUTH, cache=("MCPCacheTool echo 60s",))
    assert ask(gateway).header("Cache-Status") == "mcp; fwd=miss; stored"
    said = ask(gateway).header("Cache-Status")
    assert said.startswith("mcp; hit; ttl=") and 50 <= int(said.rpartition("=")[2]) <= 60
    assert ask(gateway, call("other")).header("Cache-Status") == "mcp; fwd=bypass"


def test_the_log_knows_what_became_of_it(caching, backend):
    gateway = caching(backend(counting()), location=AUTH, cache=("MCPCacheTool echo 60s",), server=[
        'LogFormat "%{MCP_CACHE}e" cache', "CustomLog cache.log cache"])
    ask(gateway)
    ask(gateway)
    ask(gateway, call("other"))
    wait_until(lambda: sorted(x for x in gateway._text("cache.log").split() if x != "-")
               == ["bypass", "hit", "miss"], "the log")


@pytest.mark.parametrize("name", ["Range", "Request-Range"])
def test_a_hit_is_whole_whatever_part_is_asked_for(caching, backend, name):
    gateway = caching(backend(counting()), location=AUTH)
    ask(gateway)
    answer = ask(gateway, headers=[(name, "bytes=0-3")])
    assert (status(answer), answer.status) == ("hit", 200)
    assert answer.message()["result"] == {"n": 1}


def test_headers_that_a_browser_needs_come_with_a_hit(caching, backend):
    tool = Tool(lambda peer, message: as_json(peer, message, headers=[
        ("Access-Control-Allow-Origin", "https://app.example"), ("Vary", "Origin"), ("X-Other", "1"),
        ("Cache-Control", "private, max-age=0")]))
    gateway = caching(backend(tool), location=[*AUTH, "MCPProxyAllowOrigin *"])
    here, there = [("Origin", "https://app.example")], [("Origin", "https://other.example")]
    ask(gateway, headers=here)
    answer = ask(gateway, headers=here)
    assert status(answer) == "hit"
    assert answer.header("Access-Control-Allow-Origin") == "https://app.example"
    assert answer.header("Vary") == "Origin"
    assert answer.header("X-Other") is None
    assert status(ask(gateway, headers=there)) == "miss"


def test_a_hit_needs_no_backend(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH)
    ask(gateway)
    a.kill()
    assert status(ask(gateway)) == "hit"


def test_the_connection_goes_on_after_hits_and_misses(caching, backend):
    gateway = caching(backend(counting()), location=AUTH)
    with gateway.connect() as client:
        seen = [status(ask(gateway, call("echo", x=n // 3), connection=client)) for n in range(9)]
    assert seen == ["miss", "hit", "hit"] * 3


def test_pipelined_requests_are_answered_in_order(caching, backend):
    gateway = caching(backend(counting()), location=AUTH)
    ask(gateway)
    bodies = [json.dumps(call("echo", ident=n, x=n % 2 + 1)).encode() for n in range(6)]
    with gateway.connect() as client:
        head = [ACCEPT, JSON, basic("alice", "wonder")]
        first = client.request("POST", "/mcp", head, bodies[0])
        for body in bodies[1:]:
            client.send(client.head("POST", "/mcp", head, body) + body)
        assert first.finish().message()["id"] == 0


def test_a_session_that_was_issued_here_hits_at_once(caching, server):
    client = Mcp(caching(server()), ).initialize()
    assert status(client.post(call("echo", x=1))) == "miss"
    assert status(client.post(call("echo", x=1))) == "hit"


def test_a_hit_repeats_the_session_where_the_backend_does(caching, backend):
    tool = Tool(lambda peer, message: as_json(peer, message, headers=[SESSION]))
    gateway = caching(backend(tool), location=AUTH, cache=("MCPCacheTool echo 60s",), alone=True)
    ask(gateway, headers=[SESSION])
    answer = ask(gateway, headers=[SESSION])
    assert (status(answer), answer.header("Mcp-Session-Id")) == ("hit", "s1")


def test_no_hit_on_a_session_that_the_client_ended(caching, server):
    a = server()
    gateway = caching(a, location=AUTH)
    client = Mcp(gateway, headers=[basic("alice", "wonder")]).initialize()
    client.post(call("echo", x=1))
    assert status(client.post(call("echo", x=1))) == "hit"
    assert client.delete().status == 204
    answer = client.post(call("echo", x=1))
    assert answer.status == 404


@pytest.mark.parametrize("alone", [True, False])
def test_no_hit_on_a_session_that_the_backend_has_ended(caching, server, alone):
    a = server()
    gateway = caching(a, location=AUTH, alone=alone, cache=("MCPCacheTool echo 60s",))
    client = Mcp(gateway, headers=[basic("alice", "wonder")]).initialize()
    client.post(call("echo", x=1))
    a.sessions.clear()
    assert client.post(call("other")).status == 404  # the gateway learns of it here
    assert client.post(call("echo", x=1)).status == 404
    other = Mcp(gateway, headers=[basic("alice", "wonder")]).initialize()
    assert status(other.post(call("echo", x=1))) == "hit"


def test_a_made_up_session_is_the_backends_to_refuse(caching, server):
    gateway = caching(server(), location=AUTH)
    client = Mcp(gateway, headers=[basic("alice", "wonder")]).initialize()
    client.post(call("echo", x=1))
    client.session = "made-up"
    assert client.post(call("echo", x=1)).status == 404


def test_another_users_session_gets_nothing(caching, server):
    gateway = caching(server(), location=AUTH)
    alice = Mcp(gateway, headers=[basic("alice", "wonder")]).initialize()
    bob = Mcp(gateway, headers=[basic("bob", "builder")]).initialize()
    bob.post(call("echo", x=1))
    bob.session = alice.session
    assert bob.post(call("echo", x=1)).status == 404


def test_http_with_sse_is_not_answered_from_the_cache(caching, server):
    a = server(era="sse")
    gateway = caching(a, routes={"/sse": "/sse", "/message": "/message"}, location=AUTH)
    mine = [basic("alice", "wonder")]
    stream = gateway.connect().request("GET", "/sse", [("Accept", "text/event-stream"), *mine])
    where = stream.next_event()["data"]
    path = where[where.index("/message"):]
    for ident in (1, 2):
        answer = gateway.request("POST", path, [ACCEPT, JSON, *mine],
                                 json.dumps(call("echo", ident=ident, x=1)).encode())
        assert answer.status == 202
        assert json.loads(stream.next_event()["data"])["id"] == ident
    stream.connection.close()


PROGRESS = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"
QUESTION = b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}\n\n"


@pytest.mark.parametrize("first, then, said, is_stored", [
    (PROGRESS, b"", "mcp; fwd=miss; stored", True),         # its end is not known yet, and is good
    (QUESTION, b"", "mcp; fwd=bypass", False),              # already not for the cache
    (PROGRESS, QUESTION, "mcp; fwd=miss; stored", False),   # meant to be stored, and was not
])
def test_a_streams_head_tells_what_is_meant_to_happen(caching, backend, event, first, then, said,
                                                      is_stored):
    def script(peer):
        while True:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                      b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(first), first))
            peer.wait(event)
            peer.chunk(then + b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n").end_chunks()
    gateway = caching(backend(script), location=AUTH)
    with gateway.connect() as client:
        stream = client.request("POST", "/mcp", [ACCEPT, JSON, basic("alice", "wonder")],
                                json.dumps(call("echo", x=1)).encode())
        assert stream.header("Cache-Status") == said
        assert stream.next_event()["data"] in (first + QUESTION).decode(), "passed as it comes"
        event.set()
        stream.finish()
    assert (status(ask(gateway)) == "hit") == is_stored


def test_what_is_stored_survives_a_graceful_restart(caching, backend):
    gateway = caching(backend(counting()), location=AUTH)
    ask(gateway)
    gateway.graceful()
    assert status(ask(gateway)) == "hit"


def test_all_children_share_what_is_stored(caching, backend):
    gateway = caching(backend(counting()), location=AUTH, children=4)
    ask(gateway)
    assert {status(ask(gateway)) for _ in range(30)} == {"hit"}


def test_a_body_that_comes_slowly_hits_too(caching, backend):
    gateway = caching(backend(counting()), location=AUTH, alone=True)
    ask(gateway)
    body = json.dumps(call("echo", ident=2, x=1)).encode()
    with gateway.connect() as client:
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON, basic("alice", "wonder")], body))
        for at in range(0, len(body), 20):
            client.send(body[at:at + 20])
            gateway.status()  # a round trip, so that the pieces come apart
        answer = client.response()
        assert (status(answer.finish()), answer.message()["id"]) == ("hit", 2)


def test_other_bodies_pass_where_the_cache_is_on(caching, backend):
    def script(peer):
        assert peer.read_request().body == b"grant_type=x"
        peer.answer(b"{}").wait_gone()
    gateway = caching(backend(script), location=AUTH, alone=True)
    answer = gateway.request("POST", "/mcp", [basic("alice", "wonder"), (
        "Content-Type", "application/x-www-form-urlencoded")], b"grant_type=x")
    assert (answer.status, status(answer)) == (200, "bypass")


@pytest.mark.parametrize("headers, expected", [
    ([("Content-Type", "application/json; charset=latin1")], 415),
    ([("Content-Encoding", "gzip")], 415)])
def test_what_cannot_be_read_for_sure_is_refused(caching, backend, headers, expected):
    gateway = caching(backend(counting()), location=AUTH, alone=True)
    assert ask(gateway, headers=headers).status == expected


@pytest.mark.parametrize("body, code", [
    ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}', -32600),
    ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"', -32700),
    ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":' + "[" * 1000
     + "]" * 1000 + "}}", -32700),
    ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":NaN}}}',
     -32700),
    ('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":"\xe9"}}}',
     -32700)])
def test_an_ambiguous_or_broken_body_is_400(caching, backend, body, code):
    gateway = caching(backend(counting()), location=AUTH, alone=True)
    answer = ask(gateway, body.encode("latin-1"))
    assert (answer.status, answer.message()["error"]["code"]) == (400, code)


def test_a_length_with_noughts_in_front_is_one(caching, backend):
    gateway = caching(backend(counting()), location=AUTH, alone=True)
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}'
    assert ask(gateway, body, headers=[("Content-Length", "%040d" % len(body))]).status == 400


def test_a_body_of_4_mb_passes(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=AUTH)
    message = call("echo", x="y" * (4 * 1024 * 1024 - 200))
    assert [status(ask(gateway, message)) for _ in range(2)] == ["bypass", "bypass"]


def test_alone_a_longer_body_passes_unread(caching, server):
    gateway = caching(server(era="stateless"), location=AUTH, alone=True)
    assert ask(gateway, call("echo", x="y" * (5 * 1024 * 1024))).status == 200


def test_it_is_off_where_nothing_is_configured(caching, backend):
    gateway = caching(backend(counting()), cache=(), location=AUTH, alone=True)
    assert ask(gateway).header("Cache-Status") is None
    answer = ask(gateway, b'{"not":"json-rpc"}')
    assert answer.status == 200


@pytest.mark.parametrize("line, says", [
    ("MCPCacheTool echo", "takes"), ("MCPCacheTool echo soon", "TTL"),
    ("MCPCacheTool echo 60s scope=all", "scope=user|session|shared"),
    ("MCPCacheTool echo 60s key=%{", "expression"), ("MCPCacheStore memory", "shm"),
    ("MCPCacheStore redis://:secret@localhost:6379/5", "password"),
    ("MCPCacheStore shm:10", "1M"), ("MCPCacheStale -1", "duration"),
    ("MCPCacheMaxEntry 0", "size"), ("MCPCacheTimeout 0", "duration"),
    ("MCPCacheCoalesce maybe", "On or Off")])
def test_a_bad_value_fails_the_configuration_test(caching, backend, line, says):
    gateway = caching(backend(counting()), cache=(line,), start=False)
    code, said = gateway.check_config()
    assert code and line.split()[0] in said and says in said, said
    assert "secret" not in said


def test_two_values_of_one_for_all_fail_the_configuration_test(caching, backend):
    gateway = caching(backend(counting()), start=False, server=[
        "MCPCacheMaxEntry 4K", "MCPCacheMaxEntry 8K"])
    code, said = gateway.check_config()
    assert code and "MCPCacheMaxEntry" in said
