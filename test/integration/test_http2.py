# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: served on mod_http2's threads by the same code."""
import json
import os
import shutil

import pytest

from harness import tags
from harness.backend import Nobody
from harness.client import call
from harness.h2 import Curl
from harness.wait import wait_until

pytestmark = pytest.mark.skipif(
    os.environ.get("MPM") == "prefork", reason="mod_http2 does not work with prefork"
)
LISTEN = ["Accept: text/event-stream"]


@pytest.fixture(params=[False, True], ids=["h2c", "h2"])
def gw2(request, gateway):
    """A gateway that speaks HTTP/2, plain or over TLS."""
    assert shutil.which("curl"), "curl is needed"

    def make(*backends, **options):
        lines = ["Protocols h2 h2c http/1.1", *options.pop("server", [])]
        return gateway(*backends, tls=request.param, modules=["http2"], server=lines, **options)

    return make


@pytest.fixture
def curl(keep):
    return lambda *arguments, **options: keep(Curl(*arguments, **options))


def streaming(event, end=True):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event).chunk(b"data: b\n\n")
        peer.end_chunks() if end else peer.close()

    return script


def test_a_call_works(gw2, server, curl):
    status, line, body = curl(gw2(server(era="stateless")), "/mcp", body=call("echo", 3)).finish()
    assert (status, line) == (0, "2 200")
    assert json.loads(body)["id"] == 3


def test_events_arrive_at_once(gw2, backend, curl, event):
    stream = curl(gw2(backend(streaming(event))), "/mcp", headers=LISTEN)
    stream.wait_body(b"data: a\n\n")
    event.set()
    assert stream.finish() == (0, "2 200", b"data: a\n\ndata: b\n\n")


def test_a_quiet_stream_gets_comments(gw2, backend, curl, event):
    gw = gw2(backend(streaming(event)), location=["MCPProxyHeartbeat 100ms"])
    stream = curl(gw, "/mcp", headers=LISTEN)
    stream.wait_body(b"data: a\n\n:")
    event.set()
    assert stream.finish()[2].endswith(b"data: b\n\n")


def test_a_client_that_leaves_is_told_to_the_backend(gw2, backend, curl):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait_gone()

    b = backend(script)
    stream = curl(gw2(b), "/mcp", headers=LISTEN)
    stream.wait_body(b"data: a")
    stream.close()
    b.wait_gone()


def test_a_stream_that_the_backend_breaks_off_is_seen_broken(gw2, backend, curl, event):
    gw = gw2(backend(streaming(event, end=False)))
    gw.expect_log(tags.BACKEND_BROKE)
    stream = curl(gw, "/mcp", headers=LISTEN)
    stream.wait_body(b"data: a")
    event.set()
    status, _, body = stream.finish()
    assert status != 0, "curl saw a proper end"
    assert body.startswith(b"data: a\n\n")


def test_errors_are_json_rpc(gw2, keep, curl):
    gw = gw2(keep(Nobody()))
    gw.expect_log(tags.CONNECT_FAILED)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    _, line, body = curl(gw, "/mcp", body=call("x", 9)).finish()
    assert line == "2 503"
    assert json.loads(body)["error"]["code"] == -31503
    assert json.loads(body)["id"] == 9


def test_a_refusal_is_json_rpc(gw2, server, curl):
    headers = ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"]
    _, line, body = curl(
        gw2(server(era="stateless")), "/mcp", headers=headers, body=call("x", 9)
    ).finish()
    assert line == "2 400"
    assert json.loads(body)["error"]["code"] == -32020


def test_streams_and_calls_share_a_server(gw2, server, curl):
    a = server(era="sse")
    gw = gw2(a, threads=32)
    streams = [curl(gw, "/mcp", headers=LISTEN) for _ in range(4)]
    a.wait_streams(4)
    for stream in streams:
        stream.wait_body(b"event: endpoint")
    for _ in range(3):
        assert curl(gw, "/mcp", "-X", "OPTIONS").finish()[1] == "2 200"
    for stream in streams:
        stream.close()
    a.wait_streams(0)


def test_a_slow_answer_works(gw2, server, curl):
    a = server(era="stateless")
    waiting = curl(gw2(a), "/mcp", body=call("hold", 5))
    a.wait_waiting(1)
    a.release()
    status, line, body = waiting.finish()
    assert (status, line, json.loads(body)["id"]) == (0, "2 200", 5)


def test_sessions_work(gw2, server, curl):
    a, b = server("a"), server("b")
    gw = gw2(a, b)
    for _ in range(4):
        out = (
            curl(
                gw,
                "/mcp",
                "-D",
                "-",
                body={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}},
            )
            .finish()[2]
            .decode()
        )
        session = next(
            line.split(": ")[1].strip()
            for line in out.splitlines()
            if line.lower().startswith("mcp-session-id")
        )
        home = "a" if session in a.sessions else "b"
        body = curl(
            gw, "/mcp", headers=["Mcp-Session-Id: " + session], body=call("whoami")
        ).finish()[2]
        assert json.loads(body)["result"]["server"] == home


def test_a_client_that_leaves_a_waiting_call_is_told_to_the_backend(gw2, server, curl):
    a = server(era="stateless")
    waiting = curl(gw2(a), "/mcp", body=call("hold", 5))
    a.wait_waiting(1)
    waiting.close()
    wait_until(lambda: not a.connected(), "the backend's connection to close")
