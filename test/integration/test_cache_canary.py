# SPDX-License-Identifier: Apache-2.0
"""Not one answer for another user, whatever breaks. MCP_FULL=1: a million requests."""
import os
import random
import signal
import time

from harness.canary import Canaries, answer
from harness.wait import FULL

COUNT = 1000000 if FULL else 16000

# Exchanges the values of random keys, as a store that mixes up its replies would.
SWAP = """
local a, b = redis.call('RANDOMKEY'), redis.call('RANDOMKEY')
if a and b and a:sub(1, 9) == 'mcp:tool:' and b:sub(1, 9) == 'mcp:tool:' then
  local x, y = redis.call('GET', a), redis.call('GET', b)
  redis.call('SET', a, y, 'KEEPTTL')
  redis.call('SET', b, x, 'KEEPTTL')
end
return 1
"""


def trouble(gateway, redis, rng):
    """One thing goes wrong."""
    what = rng.randrange(9)
    if what <= 2:
        for _ in range(20):
            redis.command("EVAL", SWAP, "0")
    elif what == 3:
        redis.command("CLIENT", "KILL", "TYPE", "normal")
    elif what == 4:
        redis.signal(signal.SIGSTOP)
        time.sleep(rng.random() * 0.2)
        redis.signal(signal.SIGCONT)
    elif what == 5:
        gateway.forget(rng.choice(["", "?tool=get_a", "?user=u%d" % rng.randrange(40)]))
    elif what == 6:
        redis.command("FLUSHDB")
    elif what == 7:
        children = gateway.children()
        if children:
            os.kill(rng.choice(children), signal.SIGKILL)
    else:
        redis.command("CLIENT", "PAUSE", "60", "ALL")


def run(gateway, redis, rounds=None):
    rng = random.Random(5)
    canaries = Canaries(gateway.address, COUNT)
    while canaries.running:
        trouble(gateway, redis, rng)
        time.sleep(0.05)
    return canaries.finish()


def test_every_answer_is_its_users_whatever_breaks(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(answer), children=3, spare=5, store=redis.store, timeout="25ms",
                      cache=('MCPCacheTool "get_*" 2s', "MCPCacheKey %{HTTP:X-User}",
                             "MCPCacheStale 1s"))
    for tag in ("MCP4003", "MCP4004", "MCP4010", "MCP4020", "AH00052", "AH00051"):
        gateway.expect_log(tag, optional=True)
    gateway.expect_log(r"MCP204\d|AH\d+", optional=True)
    tally = run(gateway, redis)
    print(tally)
    assert not tally["wrong"], tally["wrong"][0]
    assert tally["hit"] > COUNT / 10
    assert tally["hit"] + tally["ok"] > COUNT / 2


def test_every_answer_is_its_users_from_shared_memory(caching, backend, cache_redis):
    redis = cache_redis
    gateway = caching(backend(answer), children=3, spare=5,
                      cache=('MCPCacheTool "get_*" 300ms', "MCPCacheKey %{HTTP:X-User}"))
    for tag in ("AH00052", "AH00051"):
        gateway.expect_log(tag, optional=True)
    gateway.expect_log(r"MCP204\d|AH\d+", optional=True)
    tally = run(gateway, redis)
    print(tally)
    assert not tally["wrong"], tally["wrong"][0]
    assert tally["hit"] > COUNT / 10
