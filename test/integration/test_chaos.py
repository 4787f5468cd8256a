# SPDX-License-Identifier: Apache-2.0
"""Clients and backends that do anything at any moment: nothing crashes, nothing stays behind.

The seed is in the test's name; MCP_FULL=1 takes more of them.
"""
import random
import threading

import pytest

from harness import tags
from harness.client import ACCEPT, JSON
from harness.wait import FULL, wait_until

LISTEN = [("Accept", "text/event-stream")]
STEPS = 600 if FULL else 120


def unruly(seed):
    """A script that answers, streams, breaks off or stops at random places."""
    dice, lock = random.Random(seed), threading.Lock()

    def script(peer):
        while True:
            peer.read_request()
            with lock:
                what, size = dice.randrange(9), dice.choice((1, 200, 9000, 70_000))
            if what < 3:
                peer.answer(b"x" * size)
            elif what == 3:
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx").reset()
            elif what == 4:
                peer.close()
            elif what == 5:
                peer.wait_gone()
            else:
                peer.begin_stream()
                for _ in range(3):
                    peer.chunk(b"data: " + b"y" * size + b"\n\n")
                if what == 6:
                    peer.end_chunks()
                elif what == 7:
                    peer.wait_gone()
                else:
                    peer.close()

    return script


def act(dice, gw, clients):
    """One thing that a client might do."""
    client = dice.choice(clients) if clients and dice.random() < 0.6 else None
    try:
        if client is None:
            clients.append(gw.connect())
        elif dice.random() < 0.35:
            clients.remove(client)
            dice.choice((client.close, client.reset))()
        elif dice.random() < 0.5:
            client.is_closed_by_server()
            client.buffer = b""
        else:
            listens = dice.random() < 0.4
            body = b"" if listens else b'{"jsonrpc":"2.0","id":1,"method":"x"}'
            head = client.head(
                *(("GET", "/mcp", LISTEN) if listens else ("POST", "/mcp", [ACCEPT, JSON], body))
            )
            whole = head + body
            client.send(whole[: dice.randrange(len(whole))] if dice.random() < 0.2 else whole)
    except OSError:
        if client in clients:
            clients.remove(client)


@pytest.mark.parametrize("seed", range(24 if FULL else 2))
def test_nothing_crashes_and_nothing_stays_behind(gateway, backend, server, seed):
    b, dice, clients = backend(unruly(seed)), random.Random(seed), []
    sane = server(era="stateless")
    lines = ["<Location /sane>", '  ProxyPass "%s/mcp"' % sane.url, "  MCPProxy On", "</Location>"]
    gw = gateway(
        b,
        threads=8,
        member="retry=0",
        server=lines,
        location=["MCPProxyHeartbeat 20ms", "MCPProxyResponseTimeout 2s"],
    )
    for tag in (tags.BACKEND_GONE, tags.BACKEND_BROKE, tags.TIMEOUT, "AH00484"):
        gw.expect_log(tag, optional=True)
    for _ in range(STEPS):
        act(dice, gw, clients)
    children = gw.children()
    assert (
        gw.request("POST", "/sane", [ACCEPT, JSON], b'{"jsonrpc":"2.0","id":1,"method":"x"}').status
        == 200
    )
    gw.leave()
    wait_until(lambda: int(gw.status()["BusyWorkers"]) <= 1, "the workers to be free")
    assert gw.children() == children
