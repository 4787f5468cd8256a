# SPDX-License-Identifier: Apache-2.0
"""MCPProxyAffinity sealed: ids that say where their session is, to those whose it is only."""
import base64
import json
import os
import re
import string

import pytest
from test_members import MANAGER, set_status

from harness.caching import status
from harness.client import (
    ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, open_sse, post_sse,
)
from harness.metrics import PLACES, scrape
from harness.wait import wait_until

AUTH = ["AuthType Basic", 'AuthName "test"', "AuthUserFile users", "Require valid-user"]
ALICE, BOB = basic("alice", "wonder"), basic("bob", "builder")
BODY = json.dumps(call("whoami", 3)).encode()
LISTEN = [("Accept", "text/event-stream")]
TEXT = re.compile(r"[A-Za-z0-9_-]{30,511}")
LEGACY = {"/sse": "/sse", "/message": "/message", "/mcp": "/mcp"}


def new_key():
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture(name="key")
def _key(stage):
    """write(key, ...): the file of keys that all gateways of the test have."""
    path = stage.directory / "session.key"

    def write(*keys):
        path.write_text("# test\n" + "".join(k + "\n" for k in keys), encoding="ascii")
        path.chmod(0o600)
        return path

    write(new_key())
    write.path = path
    return write


@pytest.fixture(name="sealed")
def _sealed(gateway, key):
    """sealed(backend, ...): a gateway that seals."""

    def make(*backends, server=(), **options):
        lines = ["MCPProxyAffinity sealed", "MCPProxySessionKey file:%s" % key.path]
        return gateway(*backends, server=lines + list(server), **options)

    return make


def three(server, *arguments, **options):
    return [server(name, *arguments, **options) for name in "abc"]


def restart(gw):
    """Stop and start: nothing in memory is left."""
    gw.leave()
    assert not gw.stop()
    gw.start()


def reload(gw):
    """Restart gracefully; no child of before is there to answer any more."""
    gw.leave()
    before = gw.children()
    gw.graceful()
    wait_until(lambda: not set(before) & set(gw.children()), "the old children to go")


def use(gw, session, headers=(), path="/mcp", method="POST"):
    body = BODY if method == "POST" else None
    return gw.request(method, path, [ACCEPT, JSON, ("Mcp-Session-Id", session), *headers], body)


def count(servers):
    return sum(len(s.requests) for s in servers)


# What the client sees


def test_the_client_sees_a_text_and_the_server_its_own_id(sealed, server):
    servers = three(server)
    gw = sealed(*servers)
    for _ in range(6):
        client = Mcp(gw).initialize()
        (raw,) = (session for s in servers for session in s.sessions)
        assert TEXT.fullmatch(client.session) and raw not in client.session
        home = client.where()
        stream = client.listen(headers=[("Last-Event-ID", "17")])
        assert stream.status == 200
        stream.connection.close()
        assert client.delete().status == 204
        seen = next(s for s in servers if s.name == home).requests
        assert [r.method for r in seen[-4:]] == ["POST", "POST", "GET", "DELETE"]
        assert {r.header("Mcp-Session-Id") for r in seen[-3:]} == {raw}
        assert seen[-2].header("Last-Event-ID") == "17"
    assert not any(s.sessions for s in servers)


def test_the_raw_id_is_in_nothing_that_the_client_gets_or_the_log_says(sealed, backend):
    raw = "raw-session-id-4711"

    def script(peer):
        while True:
            request = peer.read_request()
            status = "404 Not Found" if b"missing" in request.body else "200 OK"
            peer.answer(headers=[("Mcp-Session-Id", raw)], status=status)

    gw = sealed(backend(script), server=["LogLevel trace4"])
    client = Mcp(gw).initialize()
    answers = [client.post(call("echo")), client.post(call("missing")), client.delete()]
    for answer in answers:
        assert answer.header("Mcp-Session-Id") == client.session
        assert raw not in repr(answer.headers)
    assert raw not in gw._text("error.log") + gw._text("access.log")
    assert client.session not in gw._text("access.log")


def test_the_same_session_has_the_same_text_on_every_gateway(sealed, backend):
    def script(peer):
        while True:
            peer.read_request()
            peer.answer(headers=[("Mcp-Session-Id", "the-same")])

    b = backend(script)
    texts = {Mcp(gw).initialize().session for gw in (sealed(b), sealed(b)) for _ in range(3)}
    assert len(texts) == 1


# Anywhere, after anything


def test_a_session_goes_on_at_another_gateway(sealed, server):
    servers = three(server)
    one = sealed(*servers)
    # The other one has its members in another order; it is their routes that count.
    two = sealed(
        servers[2],
        start=False,
        balancer=[
            'BalancerMember "%s" route=%s' % (s.url, s.name) for s in (servers[1], servers[0])
        ],
    )
    two.write_config = lambda config=two.write_config: (
        config(),
        (two.directory / "httpd.conf").write_text(
            two.config().replace(servers[2].url + '" route=a', servers[2].url + '" route=c')
        ),
    )
    two.start()
    for _ in range(6):
        client = Mcp(one).initialize()
        home = client.where()
        client.gateway = two
        assert client.where() == home
        client.listen(headers=[("Last-Event-ID", "1")]).connection.close()
        client.gateway = one
        assert client.where() == home
        client.gateway = two
        assert client.delete().status == 204


@pytest.mark.parametrize("how", ["graceful", "stop and start"])
def test_a_session_goes_on_after_a_restart(sealed, server, how):
    servers = three(server)
    gw = sealed(*servers)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    homes = [client.where() for client in clients]
    assert set(homes) == set("abc")
    reload(gw) if how == "graceful" else restart(gw)
    assert [client.where() for client in clients] == homes
    for client in clients:
        stream = client.listen()
        assert stream.status == 200
        stream.connection.close()
        assert client.delete().status == 204


def test_a_users_session_goes_on_at_a_gateway_of_the_same_name(sealed, server):
    servers = three(server)
    one, two, other = (
        sealed(*servers, location=AUTH, tuning=["ServerName %s:80" % name])
        for name in ("mcp.example", "mcp.example", "other.example")
    )
    client = Mcp(one, headers=[ALICE]).initialize()
    home = client.where()
    client.gateway = two
    assert client.where() == home
    assert_rpc_error(use(two, client.session, [BOB]), 404, 3)
    assert_rpc_error(use(other, client.session, [ALICE]), 404, 3)


def test_no_entry_is_needed(sealed, server):
    servers = three(server)
    gw = sealed(*servers, server=["MCPProxySessionStore shm:1", "MCPProxySessionTTL 1s"])
    clients = [Mcp(gw).initialize() for _ in range(9)]
    homes = [client.where() for client in clients]
    streams = [client.listen() for client in clients]
    assert [client.where() for client in clients] == homes
    assert all(stream.status == 200 for stream in streams)


def test_a_server_without_a_balancer(sealed, server):
    a = server()
    gw = sealed(a, single=True)
    client = Mcp(gw).initialize()
    assert TEXT.fullmatch(client.session)
    restart(gw)
    assert client.where() == "a"
    assert_rpc_error(use(gw, next(iter(a.sessions))), 404, 3)


def test_sessions_that_nobody_keeps_are_not_counted(sealed, server):
    a, b = server("a"), server("b")
    gw = sealed(a, b, server=PLACES)
    client = Mcp(gw).initialize()
    client.listen()
    got = scrape(gw)
    assert not got.of("mcp_sessions")
    assert got("mcp_router_sse_connections") == 1


# Keys


def repeating(raw="raw-1"):
    def script(peer):
        while True:
            peer.read_request()
            peer.answer(headers=[("Mcp-Session-Id", raw)])

    return script


def test_a_new_first_key_leaves_old_texts_as_they_are(sealed, backend, key):
    old, new = new_key(), new_key()
    key(old)
    gw = sealed(backend(repeating()))
    client = Mcp(gw).initialize()
    key(new, old)
    reload(gw)
    answer = client.post(call("echo"))
    assert (answer.status, answer.header("Mcp-Session-Id")) == (200, client.session)
    assert client.delete().header("Mcp-Session-Id") == client.session
    later = Mcp(gw).initialize()
    assert later.session != client.session
    key(new)
    reload(gw)
    assert_rpc_error(client.post(call("echo", 5)), 404, 5)
    assert later.post(call("echo")).status == 200


def test_another_key_is_404_and_the_server_is_not_asked(sealed, server, key):
    a = server()
    gw = sealed(a)
    client = Mcp(gw).initialize()
    key(new_key())
    reload(gw)
    seen = len(a.requests)
    assert_rpc_error(use(gw, client.session), 404, 3)
    assert_rpc_error(client.delete(), 404)
    assert len(a.requests) == seen


# Whose it is


def test_another_identity_is_404(sealed, server):
    a = server()
    gw = sealed(
        a,
        server=[
            "<Location /auth>",
            '  ProxyPass "balancer://mcp/mcp"',
            "  MCPProxy On",
            *AUTH,
            "</Location>",
        ],
    )
    nobodys = Mcp(gw).initialize()
    alices = Mcp(gw, "/auth", [ALICE]).initialize()
    bobs = Mcp(gw, "/auth", [BOB]).initialize()
    seen = len(a.requests)
    for method in ("POST", "GET", "DELETE"):
        ident = 3 if method == "POST" else None
        for client in (nobodys, alices):
            assert_rpc_error(use(gw, client.session, [BOB], "/auth", method), 404, ident)
        for client in (alices, bobs):
            assert_rpc_error(use(gw, client.session, method=method), 404, ident)
    assert len(a.requests) == seen
    assert [c.where() for c in (nobodys, alices, bobs)] == ["a"] * 3


def test_another_balancer_is_404(sealed, server):
    a, b = server("a"), server("b")
    gw = sealed(
        a,
        server=[
            '<Proxy "balancer://two">',
            '  BalancerMember "%s" route=a' % b.url,
            "  ProxySet lbmethod=mcp",
            "</Proxy>",
            "<Location /two>",
            '  ProxyPass "balancer://two/mcp"',
            "  MCPProxy On",
            "</Location>",
        ],
    )
    client = Mcp(gw).initialize()
    assert_rpc_error(use(gw, client.session, path="/two"), 404, 3)
    assert not b.requests


def test_a_character_that_differs_is_404(sealed, server):
    a = server()
    gw = sealed(a)
    text = Mcp(gw).initialize().session
    seen = len(a.requests)
    for place in range(0, len(text), 5):
        for other in {"A", "b", "-", "=", "."} - {text[place]}:
            changed = text[:place] + other + text[place + 1 :]
            assert_rpc_error(use(gw, changed), 404, 3)
    for changed in (text[:-1], text + "A", text + text, "A" + text, text.swapcase()):
        assert_rpc_error(use(gw, changed), 404, 3)
    assert len(a.requests) == seen


RAW = "alice-session-1"


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize(
    "target,headers",
    [
        ("/mcp", [("Mcp-Session-Id", RAW)]),
        ("/message?sessionId=" + RAW, []),
        ("/message?sessionId=" + RAW, ["own"]),
        ("/message?sessionId=own&sessionId=" + RAW, []),
        ("/message?session_id=own;sessionId=" + RAW, []),
        ("/message?session%49d=" + RAW, []),
        ("/message?SESSIONID=" + RAW, ["own"]),
        ("/message?sessionId[]=" + RAW, ["own"]),
        ("/message?sessionId%5B0%5D=" + RAW, ["own"]),
        ("/message?a=b&sessionId=%61lice-session-1", ["own"]),
        ("/message/" + RAW, []),
        ("/message/" + RAW, ["own"]),
        ("/message/" + RAW + "?sessionId=own", []),
        ("/message/%61lice-session-1", ["own"]),
        ("/message/./" + RAW + "/.", ["own"]),
        ("/message//" + RAW + "//", ["own"]),
        ("/mcp", [("Mcp-Session-Id", "own, " + RAW)]),
        ("/mcp", ["own", ("Mcp-Session-Id", RAW)]),
        ("/message?sessionId=" + RAW, [("MCP-Protocol-Version", "2026-07-28"),
                                       ("Mcp-Method", "tools/call"), ("Mcp-Name", "whoami")]),
    ],
)
def test_a_raw_id_reaches_no_server_wherever_it_stands(sealed, backend, method, target, headers):
    b = backend(repeating("own-session-2"))
    gw = sealed(b, routes={**LEGACY, "/message": "/message"})
    own = Mcp(gw).initialize().session
    seen = len(b.requests)
    fields = [("Mcp-Session-Id", own) if h == "own" else (h[0], h[1].replace("own", own))
              for h in headers]
    body = BODY if method == "POST" else None
    answer = gw.request(method, target.replace("own", own), [ACCEPT, JSON, *fields], body)
    assert_rpc_error(answer, 404, 3 if method == "POST" else None)
    assert len(b.requests) == seen


@pytest.mark.parametrize(
    "target",
    ["/message/" + RAW, "/message//" + RAW, "/m%65ssage/" + RAW, "/message;a/" + RAW,
     "/message/" + RAW + "/.", "/message/" + RAW + "/x/..", "/message/" + RAW + "/%2e"],
)
def test_a_raw_id_reaches_no_server_in_a_path_that_passes_as_it_is(sealed, backend, target):
    b = backend(repeating("own-session-2"))
    gw = sealed(b, server=["ProxyPass /any balancer://mcp nocanon", "<Location /any>",
                           "  MCPProxy On", "</Location>"])
    assert gw.request("POST", "/any/plain/path%2e1", [ACCEPT, JSON], BODY).status == 200
    assert b.requests[-1].target == "/plain/path%2e1"
    assert_rpc_error(gw.request("POST", "/any" + target, [ACCEPT, JSON], BODY), 404, 3)
    assert len(b.requests) == 1


def test_the_id_of_another_member_does_not_get_to_this_one(sealed, server):
    a, b = server("a"), server("b")
    # Servers that count: what is bob's own there is alice's here.
    a.make_id = b.make_id = iter("11223344").__next__
    gw = sealed(a, b, location=AUTH)
    clients = [Mcp(gw, headers=[BOB]).initialize() for _ in range(8)]
    one = next(c for c in clients if c.where() == "a")
    two = next(c for c in clients if c.where() == "b")
    seen = count((a, b))
    for client, other in ((one, two), (two, one)):
        target = "/mcp?sessionId=" + other.session
        assert_rpc_error(use(gw, client.session, [BOB], target), 404, 3)
    assert count((a, b)) == seen
    assert use(gw, one.session, [BOB], "/mcp?sessionId=" + one.session).status == 200


def test_a_request_that_has_no_sessions_carries_none(sealed, backend):
    b = backend(repeating())
    gw = sealed(b)
    client = Mcp(gw).initialize()
    modern = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"),
              ("Mcp-Name", "whoami")]
    message = call("whoami", 3)
    message["params"]["_meta"] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    for session in (client.session, RAW):
        headers = [ACCEPT, JSON, ("Mcp-Session-Id", session), *modern]
        answer = gw.request("POST", "/mcp", headers, json.dumps(message).encode())
        assert answer.status == 200, answer.body
        assert b.requests[-1].header("Mcp-Session-Id") is None
        assert answer.header("Mcp-Session-Id") == client.session


def test_the_cache_goes_by_the_text(caching, server, key):
    lines = ["MCPProxyAffinity sealed", "MCPProxySessionKey file:%s" % key.path]
    a, b = server("a"), server("b")
    gw = caching(a, b, server=[*lines, *MANAGER], cache=["MCPCacheTool echo 60s scope=session"])
    clients = [Mcp(gw).initialize() for _ in range(6)]
    homes = [client.where() for client in clients]
    echo = call("echo", x=1)
    for client in clients:
        wait_until(lambda c=client: status(c.post(echo)) == "hit", "a hit")
    seen = count((a, b))
    assert_rpc_error(gw.request("POST", "/mcp", [ACCEPT, JSON, ("Mcp-Session-Id", "x")],
                                json.dumps(echo).encode()), 404, echo["id"])
    assert count((a, b)) == seen
    set_status(gw, a.url, status_D=1)
    for client, home in zip(clients, homes):
        answer = client.post(echo)
        assert answer.status == 404 if home == "a" else status(answer) == "hit"


def test_a_member_that_is_gone_is_404(sealed, server):
    a, b = server("a"), server("b")
    gw = sealed(a, b)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    homes = [client.where() for client in clients]
    gw.backends = [a]
    gw.write_config()
    reload(gw)
    seen = count((a, b))
    for client, home in zip(clients, homes):
        if home == "a":
            assert client.where() == "a"
        else:
            assert_rpc_error(use(gw, client.session), 404, 3)
    assert count((a, b)) == seen + homes.count("a")


# HTTP+SSE


ENDPOINTS = [
    "/message?sessionId={id}",
    "/message?session_id={id}",
    "/message/{id}",
    "/message?x=1&sessionId={id}",
    "/message/{id}?x=1",
    "/message/{id}?sessionId={id}",
    "http://127.0.0.1:{port}/message?sessionId={id}",
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_posts_of_a_stream_reach_its_server_from_any_gateway(sealed, server, endpoint):
    servers = three(server, "sse", endpoint=endpoint)
    gateways = [sealed(*servers, routes=LEGACY) for _ in range(2)]
    for _ in range(6):
        stream, url = open_sse(gateways[0])
        session = next(s for x in servers for s in x.sessions)
        assert session not in url
        pattern = re.escape(re.sub("^http://[^/]+", "", endpoint))
        pattern = pattern.replace(r"\{id\}", r"[A-Za-z0-9_-]{30,511}")
        assert re.fullmatch(r"(http://localhost:\d+)?" + pattern, url), url
        for number, gw in enumerate(gateways):
            assert post_sse(gw, url, number).status == 202
            assert json.loads(stream.next_event()["data"])["id"] == number
        stream.connection.close()
        wait_until(lambda: not any(s.open_streams() for s in servers), "the stream's end")
        for s in servers:
            s.sessions.clear()


@pytest.mark.parametrize("endpoint", ["/app/message?sessionId={id}", "/app/message/{id}"])
@pytest.mark.parametrize("reverse", [True, False], ids=["with-reverse", "without"])
def test_a_path_prefix_is_mapped_as_well(sealed, server, endpoint, reverse):
    servers = three(server, "sse", endpoint=endpoint, prefix="")
    lines = ["ProxyPassReverse /message balancer://mcp/app/message"] if reverse else []
    gw = sealed(*servers, routes={"/sse": "/app/sse", "/message": "/app/message"}, server=lines)
    for _ in range(4):
        stream, url = open_sse(gw)
        assert re.sub(r"^http://[^/]+", "", url).startswith("/message"), url
        assert post_sse(gw, url).status == 202
        assert json.loads(stream.next_event()["data"])["id"] == 1


def test_a_client_may_encode_the_text(sealed, server):
    servers = three(server, "sse", endpoint="/message?sessionId={id}")
    gw = sealed(*servers, routes=LEGACY)
    for _ in range(3):
        stream, url = open_sse(gw)
        name, text = url.split("=")
        encoded = "".join("%%%02x" % ord(c) for c in text)
        assert post_sse(gw, name + "=" + encoded).status == 202
        assert json.loads(stream.next_event()["data"])["id"] == 1


@pytest.mark.parametrize("place", ["/message?x=1&sessionId=%s&y=2", "/message/%s?y=2"])
def test_an_id_with_any_characters_comes_back_encoded(sealed, backend, place):
    raw = "a b/c&d=e%f+\u00e4;1"
    encoded = "a%20b%2Fc%26d%3De%25f%2B%C3%A4%3B1"

    def script(peer):
        request = peer.read_request()
        if request.method == "POST":
            peer.answer(status="202 Accepted")
        else:
            peer.begin_stream()
            peer.chunk(b"event: endpoint\ndata: %s\n\n" % (place % encoded).encode())
            peer.wait_gone()

    assert raw  # what the server means
    b = backend(script)
    gw = sealed(b, routes=LEGACY)
    _, url = open_sse(gw)
    assert encoded not in url and set(url) <= set(string.ascii_letters + string.digits + "/?&=-_")
    assert post_sse(gw, url).status == 202
    assert b.requests[-1].target == place % encoded


def test_no_endpoint_comes_encoded(sealed, server):
    a = server("a", "sse")
    gw = sealed(a, routes=LEGACY)
    open_sse(gw, headers=[("Accept-Encoding", "gzip, br")])
    assert a.requests[-1].header("Accept-Encoding") in ("", None)


def test_only_the_own_stream_can_be_posted_to(sealed, server):
    a = server("a", "sse", endpoint="/message?sessionId={id}")
    gw = sealed(a, routes=LEGACY, location=AUTH)
    stream = gw.connect().request("GET", "/sse", [*LISTEN, ALICE])
    url = stream.next_event()["data"]
    seen = len(a.requests)
    headers = [ACCEPT, JSON, BOB]
    assert_rpc_error(gw.request("POST", url, headers, BODY), 404, 3)
    assert_rpc_error(gw.request("POST", "/message?sessionId=" + next(iter(a.sessions)), headers,
                                BODY), 404, 3)
    assert len(a.requests) == seen
    assert gw.request("POST", url, [ACCEPT, JSON, ALICE], BODY).status == 202


def test_a_redirect_keeps_the_text(sealed, backend):
    def script(peer):
        while True:
            request = peer.read_request()
            if request.target.startswith("/message/?"):
                peer.answer(status="202 Accepted")
            elif request.method == "POST":
                peer.answer(status="307 Moved", headers=[
                    ("Location", request.target.replace("/message", "/message/"))])
            else:
                peer.begin_stream().chunk(b"event: endpoint\ndata: /message?session_id=raw1\n\n")
                peer.wait_gone()

    b = backend(script)
    gw = sealed(b, routes=LEGACY)
    _, url = open_sse(gw)
    moved = post_sse(gw, url)
    assert (moved.status, moved.header("Location")) == (307, url.replace("e?", "e/?"))
    assert post_sse(gw, moved.header("Location")).status == 202
    assert b.requests[-1].target == "/message/?session_id=raw1"


# httpd -t


def check(gateway, server, *lines, **options):
    return gateway(server(), start=False, server=list(lines), **options).check_config()


def test_no_key_is_an_error_that_says_how_to_make_one(gateway, server):
    result, said = check(gateway, server, "MCPProxyAffinity sealed")
    assert result != 0
    assert "MCPProxySessionKey" in said and "openssl rand -base64 32" in said


FILES = [
    (None, 0o600, "No such file"),
    ("", 0o600, "no key in it"),
    (new_key(), 0o640, "chmod 600"),
    (new_key(), 0o604, "chmod 600"),
    ("\n\nsecret\n", 0o600, "line 3 is not base64 of 32 bytes"),
    (new_key() + "\n" + new_key()[4:] + "\n", 0o600, "line 2 is not"),
]


@pytest.mark.parametrize("text, mode, error", FILES)
@pytest.mark.parametrize("affinity", ["sealed", "table"])
def test_a_bad_file_is_an_error_that_says_why(gateway, server, stage, affinity, text, mode, error):
    path = stage.directory / "key"
    if text is not None:
        path.write_text(text, encoding="ascii")
        path.chmod(mode)
    lines = ["MCPProxyAffinity " + affinity, "MCPProxySessionKey file:%s" % path]
    result, said = check(gateway, server, *lines)
    assert result != 0
    assert error in said and str(path) in said
    assert not text or not text.strip() or text.strip().split("\n")[-1] not in said


def test_a_path_is_relative_to_the_server_root(gateway, server):
    gw = gateway(server(), start=False,
                 server=["MCPProxyAffinity sealed", "MCPProxySessionKey file:own.key"])
    (gw.directory / "own.key").write_text("# mine\n\n" + new_key(), encoding="ascii")
    (gw.directory / "own.key").chmod(0o400)
    assert TEXT.fullmatch(Mcp(gw.start()).initialize().session)


@pytest.mark.parametrize("value", [new_key(), "file:", "shm", "/etc/key"])
def test_a_key_stands_in_a_file_only(gateway, server, value):
    result, said = check(gateway, server, "MCPProxySessionKey %s" % value)
    assert result != 0
    assert "MCPProxySessionKey" in said and "file:PATH" in said


@pytest.mark.parametrize("value, is_good", [("own.key", True), ("other.key", False)])
def test_the_key_is_one_for_all(gateway, server, value, is_good):
    gw = gateway(server(), start=False, server=[
        "MCPProxySessionKey file:own.key",
        "<VirtualHost *:1>",
        "MCPProxySessionKey file:" + value,
        "</VirtualHost>",
    ])
    for name in ("own.key", "other.key"):
        (gw.directory / name).write_text(new_key(), encoding="ascii")
        (gw.directory / name).chmod(0o600)
    result, said = gw.check_config()
    assert (result == 0) == is_good, said
    assert is_good or "one value for the whole httpd" in said


def test_members_of_one_name_are_refused(sealed, server):
    a, b = server("a"), server("b")
    gw = sealed(a, start=False, balancer=['BalancerMember "%s" route=a' % b.url])
    result, said = gw.check_config()
    assert result != 0
    assert "route=a" in said
