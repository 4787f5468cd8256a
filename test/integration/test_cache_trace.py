# SPDX-License-Identifier: Apache-2.0
"""How many of the hits that an oracle would have, on the calls of agents as they come: with ids that
never repeat, members in any order, white space as the client likes it."""
import json
import random

from harness.caching import Tool, as_json, status
from harness.client import ACCEPT, JSON

AGENTS, CALLS, TASKS = 8, 1500, 60


def trace(seed=20261120):
    """What agents ask: each works on a few tasks at a time, and comes back to them."""
    rng = random.Random(seed)
    for number in range(CALLS):
        agent = rng.randrange(AGENTS)
        task = min(int(rng.expovariate(0.12)), TASKS - 1)  # few are asked for often
        arguments = {"sku": "A-%d" % task, "fields": ["price", "stock"], "limit": 10 + task % 3,
                     "filter": {"region": "eu", "since": "2026-01-01", "active": task % 2 == 0}}
        yield agent, number, arguments


def shuffled(value, rng):
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffled(item, rng) for key, item in items}
    return value


def test_at_least_95_percent_of_an_oracles_hits(caching, backend):
    tool = Tool(lambda peer, message: as_json(peer, message))
    gateway = caching(backend(tool), cache=("MCPCacheTool * 1h", "MCPCacheKey %{HTTP:X-User}"))
    rng, known, oracle, hits, repeated, bodies = random.Random(1), set(), 0, 0, 0, set()
    with gateway.connect() as client:
        for agent, ident, arguments in trace():
            key = (agent, json.dumps(arguments, sort_keys=True))
            oracle += key in known
            known.add(key)
            message = {"jsonrpc": "2.0", "id": "call-%d" % ident, "method": "tools/call", "params": {
                "name": "get_product", "arguments": arguments, "_meta": {"progressToken": ident}}}
            body = json.dumps(shuffled(message, rng), indent=rng.choice([None, 1])).encode()
            repeated += body in bodies
            bodies.add(body)
            answer = client.request("POST", "/mcp", [ACCEPT, JSON, ("X-User", "a%d" % agent)], body)
            hits += status(answer.finish()) == "hit"
            assert answer.message()["id"] == "call-%d" % ident
    assert oracle > CALLS / 2
    assert hits >= 0.95 * oracle
    assert repeated == 0  # a cache that is keyed on the body would have had none
