# SPDX-License-Identifier: Apache-2.0
"""What the tests of mod_mcp_ratelimit share."""
import json

from .client import ACCEPT, JSON
from .gateway import BUILD

MODULE = BUILD / "mod_mcp_ratelimit" / ".libs" / "mod_mcp_ratelimit.so"
LOAD = 'LoadModule mcp_ratelimit_module "%s"' % MODULE
BY_HEADER = 'MCPRateLimitKey "%{HTTP:X-User}"'

# The module's log tags by meaning.
DRY_RUN = "MCP3010"
STORE_DOWN = "MCP3002"
STORE_UP = "MCP3003"
COMPLAINT = "MCP3004"


def limited(store, *location, mcp=True, server=(), timeout="5s", **more):
    """Options for a gateway whose /mcp has these limits, counted by the X-User header."""
    if not mcp:
        more.setdefault("lbmethod", "byrequests")
        more.setdefault("member", "flushpackets=on")
    # Nothing here is about time, and the machine may be busy: see test_ratelimit_outage for that.
    return dict(server=[LOAD, "MCPRateLimitStore " + store, "MCPRateLimitTimeout %s" % timeout,
                        *server],
                location=[BY_HEADER, *location], mcp=mcp, **more)


def message(method="ping", id_=1, **params):
    made = {"jsonrpc": "2.0", "method": method}
    if id_ is not None:
        made["id"] = id_
    if params:
        made["params"] = params
    return made


def post(gateway, body=None, user="alice", headers=(), target="/mcp"):
    """One message; its answer."""
    body = message() if body is None else body
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.request("POST", target, [ACCEPT, JSON, ("X-User", user), *headers], data)


def open_stream(gateway, user="alice", headers=(), target="/mcp"):
    """A GET that may stay open: its connection and its response's head."""
    client = gateway.connect()
    return client, client.request("GET", target, [("Accept", "text/event-stream"),
                                                  ("X-User", user), *headers])


def try_stream(gateway, user="alice", **more):
    """The connection of a stream that was admitted; None: it was refused."""
    client, response = open_stream(gateway, user, **more)
    if response.status == 200:
        return client
    assert response.status == 429, response.status
    client.close()
    return None


def serve(peer):
    """A backend: GETs become event streams that last, POSTs are answered at once."""
    while True:
        request = peer.read_request()
        if request.method == "GET" and "plain" not in request.target:
            peer.begin_stream().chunk(b"data: hello\n\n")
            peer.wait_gone()
        if "listen" in request.body.decode("latin-1"):
            peer.begin_stream().chunk(b"data: hello\n\n")
            peer.wait_gone()
        if "unauthorized" in request.target:
            peer.answer(b"", status="401 Unauthorized",
                        headers=[("WWW-Authenticate", "Bearer")])
        else:
            peer.answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')


def hang_up(gateway):
    """A thread of mod_proxy_http that reads a quiet stream outlives a stop: end them from behind."""
    if gateway.mcp:
        return
    gateway.expect_log("AH01110", optional=True)
    for backend in gateway.backends:
        for peer in backend.peers:
            peer._shut()
