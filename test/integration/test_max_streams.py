# SPDX-License-Identifier: Apache-2.0
"""MCPProxyMaxStreams: a request that could open one stream too many is sent away for a while."""
import json

import pytest

from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call
from harness.wait import wait_until

LIMIT = 6


@pytest.fixture
def full(gateway, server):
    """(gateway, server, a client with a session, the streams), with all streams taken."""
    a = server()
    gw = gateway(a, streams=None, server=["MCPProxyMaxStreams %d" % LIMIT], children=3, threads=4)
    mcp = Mcp(gw).initialize()
    return gw, a, mcp, [Mcp(gw).initialize().listen() for _ in range(LIMIT)]


def is_refused(answer, ident=None):
    assert_rpc_error(answer, 503, ident)
    return int(answer.header("Retry-After")) >= 1


def test_a_stream_too_many_is_503_whichever_child_is_asked(full):
    _, a, mcp, _ = full
    seen = len(a.requests)
    for _ in range(6):
        assert is_refused(mcp.listen())
        assert is_refused(mcp.post(call("whoami", "x")), "x"), "a call may be answered by a stream"
    assert len(a.requests) == seen, "the server has not heard of it"


def test_what_can_open_no_stream_passes(full):
    gw, _, mcp, _ = full
    headers = [("Accept", "application/json"), JSON, ("Mcp-Session-Id", mcp.session)]
    answer = gw.request("POST", "/mcp", headers, json.dumps(call("whoami", 3)).encode())
    assert answer.json()["id"] == 3
    assert mcp.delete().status == 204


def test_a_place_comes_free_with_a_stream_that_ends(full):
    _, _, mcp, streams = full
    for stream in streams[:3]:
        stream.connection.close()
    wait_until(lambda: mcp.post(call("whoami")).status == 200, "room")
    assert mcp.listen().status == 200


def test_the_places_of_streams_that_ended_in_a_graceful_restart_are_free(gateway, server):
    lines = ["MCPProxyMaxStreams %d" % LIMIT, "MCPProxyDrainTimeout 1s"]
    gw = gateway(server(), streams=None, server=lines)
    mcp = Mcp(gw).initialize()
    for _ in range(3):
        streams = [mcp.listen() for _ in range(LIMIT)]
        assert [stream.status for stream in streams] == [200] * LIMIT
        assert is_refused(mcp.listen())
        gw.graceful()
        assert [stream.wait_end() for stream in streams] == ["complete"] * LIMIT
        wait_until(lambda: mcp.post(call("whoami")).status == 200, "room")
    assert gw.request("GET", "/mcp", [ACCEPT]).status != 503
