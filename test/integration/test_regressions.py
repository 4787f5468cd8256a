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


def streaming_until(event, first=b"data: a\n\n", headers=(), chunked=True):
    def script(peer):
        peer.read_request()
        peer.begin_stream(headers, chunked).chunk(first).wait_gone()
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


# Whose session

def owned(gateway, backend):
    """A gateway and alice's session, which a backend without any check of its own has issued."""
    def script(peer):
        while True:
            request = peer.read_request()
            peer.answer(headers=[("Mcp-Session-Id", "alice-session-1")]
                        if b"initialize" in request.body else [])
    b = backend(script)
    gw = gateway(b, routes=LEGACY, location=AUTH)
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
