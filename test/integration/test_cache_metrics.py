# SPDX-License-Identifier: Apache-2.0
"""What mod_mcp_cache counts: each request once, each question to a far store, over all children."""
import os
import signal

from harness.caching import AUTH, Tool, as_json, post, status
from harness.client import call, rpc
from harness.metrics import PLACES, scrape
from harness.wait import wait_until

GET = "get_*"


def ask(gateway, message):
    return post(gateway, message, user="alice")


def counts(gateway, tool):
    got = scrape(gateway)
    return {result: int(got("mcp_cache_requests_total", tool=tool, result=result))
            for result in ("hit", "miss", "stale", "bypass")}


def some_of_each(gateway):
    """One miss and hits of a named tool, two calls of another. How many of the named one."""
    asked = 2
    assert status(ask(gateway, call("get_a"))) == "miss"
    while status(ask(gateway, call("get_a"))) != "hit":
        asked += 1
    for _ in range(2):
        ask(gateway, call("get_a"))
        ask(gateway, call("put_a"))
    ask(gateway, rpc("ping"))
    return asked + 2


def wait_counts(gateway, tool, **wanted):
    """A request counts at its end, which may come after its client has the answer."""
    wanted = {"hit": 0, "miss": 0, "stale": 0, "bypass": 0, **wanted}
    wait_until(lambda: counts(gateway, tool) == wanted, "%s to be %s" % (tool, wanted))


def test_every_request_counts_once(caching, backend):
    gateway = caching(backend(Tool(as_json)), location=AUTH, server=PLACES,
                      cache=("MCPCacheTool %s 60s" % GET, "MCPCacheTool put_* 0"))
    asked = some_of_each(gateway)
    wait_counts(gateway, GET, miss=1, hit=asked - 1)
    wait_counts(gateway, "put_*", bypass=2)
    wait_counts(gateway, "other", bypass=1)


def test_an_old_value_that_stands_in_is_no_miss(caching, backend):
    fails = []

    def answer(peer, message):
        if fails:
            return peer.answer(b"x", status="503 Failed", content_type="text/plain")
        return as_json(peer, message)
    gateway = caching(backend(Tool(answer)), location=AUTH, server=PLACES,
                      cache=("MCPCacheTool %s 100ms" % GET, "MCPCacheStale 1h"))
    assert status(ask(gateway, call("get_a"))) == "miss"
    fails.append(1)
    wait_until(lambda: "ttl=-" in ask(gateway, call("get_a")).header("Cache-Status"),
               "the old value")
    wait_until(lambda: counts(gateway, GET)["stale"] == 1, "it to count")
    assert counts(gateway, GET)["miss"] == 1


def test_counters_outlive_the_child_that_counted(caching, backend):
    gateway = caching(backend(Tool(as_json)), location=AUTH, server=PLACES, children=1,
                      cache=("MCPCacheTool %s 60s" % GET,))
    asked = some_of_each(gateway)
    wait_counts(gateway, GET, miss=1, hit=asked - 1)
    child = gateway.children()[0]
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: gateway.children() and child not in gateway.children(), "another child")
    wait_counts(gateway, GET, miss=1, hit=asked - 1)
    assert status(ask(gateway, call("get_a"))) == "hit"
    wait_counts(gateway, GET, miss=1, hit=asked)


def test_questions_to_redis_are_timed_and_failures_counted(caching, backend, cache_redis):
    gateway = caching(backend(Tool(as_json)), location=AUTH, server=PLACES,
                      store=cache_redis.store, cache=("MCPCacheTool %s 60s" % GET,))
    some_of_each(gateway)
    got = scrape(gateway)
    assert got("mcp_store_seconds_count", module="cache") >= 4
    assert got("mcp_store_seconds_bucket", module="cache", le="+Inf") \
        == got("mcp_store_seconds_count", module="cache")
    assert got("mcp_store_seconds_sum", module="cache") > 0
    assert got("mcp_store_errors_total", module="cache") == 0
    gateway.expect_log("MCP4004")
    cache_redis.kill()
    ask(gateway, call("get_a"))
    assert scrape(gateway)("mcp_store_errors_total", module="cache") > 0
