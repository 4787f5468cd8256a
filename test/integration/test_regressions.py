# SPDX-License-Identifier: Apache-2.0
"""What once went wrong, one test each. Names say the behaviour."""
import fcntl
import json
import os
import struct
import subprocess
import termios
import threading

import pytest

from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, rpc
from harness.wait import settles, wait_until

LISTEN = [("Accept", "text/event-stream")]
AUTH = ["AuthType Basic", 'AuthName "mcp"', "AuthUserFile users", "Require valid-user"]
LEGACY = {"/mcp": "/mcp", "/sse": "/sse", "/message": "/message"}


def streaming(first):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(first).wait_gone()
    return script


def old_child_goes(gw, timeout=8):
    old = gw.children()
    gw.graceful()
    wait_until(lambda: not set(old) & set(gw.children()), "the old child to go", timeout)


# Request bodies

def waiting(sock):
    """Bytes that have come and were not read."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"0000"))[0]


@pytest.mark.skipif(os.environ.get("MPM") == "prefork", reason="no mod_http2")
def test_a_body_without_a_length_over_http_2_reaches_the_backend(gateway, backend):
    b = backend(lambda peer: peer.read_request() and peer.answer())
    gw = gateway(b, modules=["http2"], server=["Protocols h2c http/1.1"])
    body = json.dumps(call("x", 7))
    run = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-X", "POST", "-T", "-", "-H",
                          "Content-Type: application/json", gw.origin + "/mcp"], input=body.encode(),
                         capture_output=True, check=False, timeout=20)
    assert run.stdout == b"{}", run
    assert b.requests[0].body == body.encode()


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_an_interim_response_does_not_stop_the_upload(gateway, backend, interim):
    def script(peer):
        left = int(peer.read_head().header("Content-Length")) - len(peer._unread)
        settles(lambda: waiting(peer.socket), 0.3)  # the gateway's socket is full
        peer.send(interim)
        while left and (data := peer.socket.recv(1 << 20)):
            left -= len(data)
        peer.answer(b"%d" % left)
    gw = gateway(backend(script), location=["MCPProxyMaxBody 64M"])
    body = b"x" * (24 << 20)
    answer = gw.request("POST", "/mcp", [("Content-Type", "application/octet-stream")], body)
    assert answer.body == b"0"


# Streams

@pytest.mark.parametrize("first", [b"data: a\n\n", b"event: endpoint\ndata: /mcp?sessionId=1\n\n"])
def test_a_stream_that_is_lengthened_does_not_keep_its_length(gateway, backend, event, first):
    last = b"data: b\n\n"
    def script(peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
                  % len(first + last) + first).wait(event).send(last).wait_gone()
    gw = gateway(backend(script), routes={"/a-long-prefix/mcp": "/mcp"},
                 location=["MCPProxyHeartbeat 100ms"])
    stream = gw.connect().request("GET", "/a-long-prefix/mcp", LISTEN)
    wait_until(lambda: [stream.poll(), b"\n\n:\n" in stream.body][1], "a comment")
    event.set()
    body = stream.finish().body.replace(b":\n\n", b"")
    assert body == first.replace(b" /mcp", b" /a-long-prefix/mcp") + last


@pytest.mark.parametrize("kind", ["between", "inside", "encoded", "waiting"])
def test_standing_streams_alone_do_not_hold_an_old_child(gateway, backend, kind):
    def script(peer):
        peer.read_request()
        if kind == "waiting":
            peer.wait_gone()
        peer.begin_stream([("Content-Encoding", "gzip")] if kind == "encoded" else [])
        peer.chunk(b"data: a\n" if kind == "inside" else b"data: a\n\n").wait_gone()
    b = backend(script)
    gw = gateway(b, server=["MCPProxyDrainTimeout 1s"])
    client = gw.connect()
    client.send(client.head("GET", "/mcp", LISTEN))
    b.wait_requests(1)
    if kind != "waiting":
        client.response()
    old_child_goes(gw)


def test_a_stream_that_drains_in_the_middle_of_an_event_costs_no_cpu(gateway, backend):
    b = backend(streaming(b"data: a\n"))
    gw = gateway(b, server=["MCPProxyDrainTimeout 4s"])
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    stream.read_until(b"data: a\n")
    old = gw.children()[0]
    ticks = lambda: sum(map(int, open("/proc/%d/stat" % old).read().rsplit(")", 1)[1].split()[11:13]))
    before = ticks()
    gw.graceful()
    threading.Event().wait(3)
    assert not os.path.exists("/proc/%d" % old) or ticks() - before < 60


# Whose session

def owned(gateway, backend, **options):
    """A gateway and alice's session, which a backend without any check of its own has issued."""
    def script(peer):
        while True:
            request = peer.read_request()
            peer.answer(headers=[("Mcp-Session-Id", "alice-session-1")]
                        if b"initialize" in request.body else [])
    b = backend(script)
    gw = gateway(b, routes=LEGACY, location=AUTH, **options)
    Mcp(gw, headers=[basic("alice", "wonder")]).initialize()
    return gw, b


@pytest.mark.parametrize("target,headers", [
    ("/mcp", [("Mcp-Session-Id", "alice-session-1")]),
    ("/message?sessionId=alice-session-1", [("Mcp-Session-Id", "made-up")]),
    ("/message?sessionId=made-up&sessionId=alice-session-1", []),
    ("/message?session_id=made-up&sessionId=alice-session-1", []),
    ("/message?session%49d=alice-session-1", []),
    ("/message/alice-session-1", [("Mcp-Session-Id", "made-up")]),
    ("/message/alice-session-1?sessionId=made-up", []),
    ("/mcp/alice-session-1?sessionId=made-up", []),
    ("/mcp/alice-session-1", []),
    ("/mcp/alice-session-1?SESSIONID=made-up", []),
    ("/message?sessionID=alice-session-1", []),
    ("/message?sessionId[]=alice-session-1", [("Mcp-Session-Id", "made-up")]),
    ("/mcp/Message/alice-session-1", []),
    ("/message/./alice-session-1/.", []),
    ("/message?sessionId=alice-session-1", [("MCP-Protocol-Version", "2026-07-28"),
                                            ("Mcp-Method", "ping")]),
    ("/mcp", [("Mcp-Session-Id", "alice-session-1"), ("MCP-Protocol-Version", "2026-07-28"),
              ("Mcp-Method", "ping")]),
])
def test_a_foreign_session_is_404_wherever_its_id_stands(gateway, backend, target, headers):
    gw, b = owned(gateway, backend)
    seen = len(b.requests)
    answer = gw.request("POST", target, [ACCEPT, JSON, basic("bob", "builder"), *headers],
                        json.dumps(rpc("ping", ident=3)).encode())
    assert_rpc_error(answer, 404, 3)
    assert len(b.requests) == seen


def test_a_foreign_session_is_404_in_a_path_that_a_rewrite_replaces(gateway, backend):
    gw, b = owned(gateway, backend, modules=["rewrite"], server=[
        "RewriteEngine On", "RewriteRule ^/mcp/message/ /mcp [PT]"])
    seen = len(b.requests)
    answer = gw.request("POST", "/mcp/message/alice-session-1", [
        ACCEPT, JSON, basic("bob", "builder"), ("Mcp-Session-Id", "made-up")],
        json.dumps(rpc("ping", ident=3)).encode())
    assert_rpc_error(answer, 404, 3)
    assert len(b.requests) == seen


@pytest.mark.parametrize("lines", [[], ["MCPProxyAffinity sealed", "MCPProxySessionKey file:key"]],
                         ids=["table", "sealed"])
def test_a_session_is_of_the_balancer_that_a_rewrite_chooses(gateway, server, lines):
    a, b = server("a"), server("b")
    gw = gateway(a, start=False, modules=["rewrite"], location=[
        "RewriteEngine On", "RewriteCond %{HTTP:X-Two} 1",
        "RewriteRule .* balancer://two/mcp [P]"], server=[*lines,
        '<Proxy "balancer://two">', '  BalancerMember "%s" route=z' % b.url,
        "  ProxySet lbmethod=mcp", "</Proxy>"])
    (gw.directory / "key").write_text("A" * 43 + "=", encoding="ascii")
    (gw.directory / "key").chmod(0o600)
    gw.start()
    one, two = Mcp(gw).initialize(), Mcp(gw, headers=[("X-Two", "1")]).initialize()
    assert (one.where(), two.where()) == ("a", "b")
    assert (len(a.sessions), len(b.sessions)) == (1, 1)


# Limits

def test_the_limit_of_streams_holds_for_streams_that_begin_at_once(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.wait(event).begin_stream().chunk(b"data: a\n\n").wait_gone()
    b = backend(script)
    gw = gateway(b, streams=None, server=["MCPProxyMaxStreams 3"])
    clients = [gw.connect() for _ in range(8)]
    for client in clients:
        client.send(client.head("GET", "/mcp", LISTEN))
    b.wait_requests(8)
    event.set()
    answers = [client.response() for client in clients]
    assert sorted(a.status for a in answers) == [200] * 3 + [503] * 5
    assert all(a.header("Retry-After") for a in answers if a.status == 503)


def test_a_client_that_goes_while_it_is_told_to_continue_is_logged(gateway, backend):
    """httpd closes such a connection behind the back of the request that waits for its body."""
    gw = gateway(backend(lambda peer: peer.read_request() and peer.answer()), threads=2,
                 preloaded=["leavingclient"])
    head = [ACCEPT, JSON, ("Content-Length", "2"), ("Expect", "100-continue")]
    for count in range(1, 6):
        with gw.connect() as client:
            client.send(client.head("POST", "/mcp", head))
            assert not client.fill()
        wait_until(lambda: sum("POST" in x for x in gw.access()) == count, "the request's end")
        assert gw.request("GET", "/nothing").status == 404


# Configuration

def test_a_section_counts_for_its_own_paths_only(gateway, backend):
    gw = gateway(backend(lambda peer: peer.read_request() and peer.answer()), start=False, server=[
        '<Proxy "balancer://plain">', '  BalancerMember "http://127.0.0.1:9"', "</Proxy>",
        'ProxyPass "/mcpx" "balancer://plain/"'])
    status, said = gw.check_config()
    assert status == 0, said


# Idle connections

def test_idle_backend_connections_do_not_outlive_their_time(gateway, backend):
    def script(peer):
        while True:
            peer.read_request()
            peer.wait(gate).answer()
    gate = threading.Event()
    b = backend(script)
    gw = gateway(b, member="ttl=1")
    clients = [gw.connect() for _ in range(10)]
    for client in clients:
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON], b"{}") + b"{}")
    b.wait_requests(10)
    gate.set()
    for client in clients:
        client.response().finish()
    wait_until(lambda: gw.request("POST", "/mcp", [ACCEPT, JSON], b"{}")
               and sum(p.closed_at is not None for p in b.peers) >= 9, "nine to be closed", 6)
