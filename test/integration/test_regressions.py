# SPDX-License-Identifier: Apache-2.0
"""What once went wrong, one test each. Names say the behaviour."""
import json
import os
import shutil
import socket
import subprocess
import threading

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, basic, call, rpc
from harness.gateway import apxs
from harness.h2 import Curl
from harness.wait import stays, wait_until

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
