# SPDX-License-Identifier: Apache-2.0
"""The cache beside limits, and over HTTP/2."""
import json
import os
import re

import pytest
from test_cache_flights import Crowd, holds

from harness import limits
from harness.caching import AUTH, Tool, as_json, post, status
from harness.client import assert_rpc_error, basic, call
from harness.h2 import Curl
from harness.wait import wait_until

USER = "Authorization: " + basic("alice", "wonder")[1]


def ask(gateway, message=None, **options):
    return post(gateway, message or call("echo", x=1), user="alice", **options)


@pytest.fixture(params=["beside mod_mcp_proxy", "without it"])
def limited(request, caching, backend):
    """limited(lines): a gateway with both modules; its backend's calls are in .calls."""
    def make(*lines, order="cache first"):
        tool = Tool(as_json)
        server = [limits.LOAD, "MCPRateLimitStore shm"]
        gateway = caching(backend(tool), alone=request.param == "without it", start=False,
                          location=[*AUTH, *lines], server=server)
        if order == "limiter first":
            gateway.server.remove(limits.LOAD)
            gateway.server.insert(0, limits.LOAD)
        gateway.start()
        gateway.calls = tool.calls
        return gateway
    return make


@pytest.mark.parametrize("order", ["cache first", "limiter first"])
def test_a_hit_counts_and_a_refused_request_is_not_served(limited, order):
    gateway = limited("MCPRateLimitTool echo 1/3600s burst=3", order=order)
    answers = [ask(gateway) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert [status(answer) for answer in answers[:3]] == ["miss", "hit", "hit"]
    for answer in answers[3:]:
        assert_rpc_error(answer, 429, 1, -31429)
        assert answer.header("Cache-Status") is None
        assert b"echo" not in answer.body and "result" not in answer.message()
    assert len(gateway.calls) == 1


def test_a_hit_says_what_is_left_of_the_limit(limited):
    gateway = limited("MCPRateLimitMessages 1/3600s burst=9")
    left = [ask(gateway).header("X-RateLimit-Remaining") for _ in range(3)]
    assert left == ["8", "7", "6"]


def test_an_address_that_is_blocked_gets_no_hit(limited):
    gateway = limited("MCPRateLimitAddress 2/3600s")
    assert [status(ask(gateway)) for _ in range(3)] == ["miss", "hit", "hit"]
    refused = [post(gateway, call("echo", x=1)).status for _ in range(3)]
    assert refused == [401, 401, 429]
    assert len(gateway.calls) == 1


def test_one_who_waits_for_an_equal_request_counts_once(caching, server):
    a = server(era="stateless")
    gateway = caching(a, location=[*AUTH, "MCPRateLimitTool hold 1/3600s burst=3"],
                      server=[limits.LOAD])
    crowd = Crowd(gateway, 5)
    a.wait_waiting(1)
    wait_until(lambda: len(gateway.access()) == 2, "two to be refused")
    a.release()
    answers = [answer.status for answer in crowd.answers()]
    assert (answers.count(200), answers.count(429)) == (3, 2)
    assert holds(a) == 1


@pytest.fixture(params=[False, True], ids=["h2c", "h2"])
def gw2(request, caching):
    if os.environ.get("MPM") == "prefork":
        pytest.skip("mod_http2 does not work with prefork")

    def make(*backends, **options):
        return caching(*backends, tls=request.param, modules=["http2"], location=AUTH,
                       server=["Protocols h2 h2c http/1.1"], threads=32, **options)
    return make


@pytest.fixture
def curl(keep):
    def make(gateway, message, *arguments, accept="application/json"):
        return keep(Curl(gateway, "/mcp", "-D", "/dev/stderr", *arguments, body=message,
                         headers=[USER, "Accept: " + accept]))
    return make


def finished(curl_process):
    """(cache status, status line, body) of one curl."""
    out, err = curl_process.process.communicate(timeout=60)
    said = re.search(r"(?im)^cache-status: (.*?)\r?$", err.decode())
    return said[1] if said else "", err.decode().strip().splitlines()[-1], out


def test_hits_over_http2(gw2, backend, curl):
    tool = Tool(as_json)
    gateway = gw2(backend(tool))
    assert finished(curl(gateway, call("echo", "a", x=1)))[0] == "mcp; fwd=miss; stored"
    wait_until(lambda: "hit" in finished(curl(gateway, call("echo", "a", x=1)))[0], "a hit")
    said, line, body = finished(curl(gateway, call("echo", "b", x=1)))
    assert (said.startswith("mcp; hit; ttl="), line) == (True, "2 200")
    assert json.loads(body) == {"jsonrpc": "2.0", "id": "b", "result": {"n": 1}}
    said, _, body = finished(curl(gateway, call("echo", 7, x=1), accept="text/event-stream"))
    assert body.startswith(b"event: message\ndata: ") and b'"id":7' in body


def test_equal_misses_over_http2_make_one_call(gw2, server, curl):
    a = server(era="stateless")
    gateway = gw2(a)
    crowd = [curl(gateway, call("hold", number, x=1)) for number in range(8)]
    a.wait_waiting(1)
    a.release()
    answers = [finished(one) for one in crowd]
    assert sorted(json.loads(body)["id"] for _, _, body in answers) == list(range(8))
    assert holds(a) == 1
