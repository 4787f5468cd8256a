# SPDX-License-Identifier: Apache-2.0
"""No hit on a session that is over, whoever knows that it is."""
import base64

import pytest
from test_members import MANAGER, announce_a_dead_member, set_status

from harness.caching import status
from harness.client import Mcp, call
from harness.wait import wait_until

ECHO = call("echo", x=1)


def hits(client):
    return status(client.post(ECHO)) == "hit"


def sessions_on_both(caching, server, *lines):
    """A session on each of two members, for both of which there are hits."""
    a, b = server("a"), server("b")
    gateway = caching(a, b, server=[*MANAGER, *lines], cache=("MCPCacheTool echo 60s",))
    clients = [Mcp(gateway).initialize() for _ in range(6)]
    on_a = next(client for client in clients if client.where() == "a")
    on_b = next(client for client in clients if client.where() == "b")
    for client in (on_a, on_b):
        wait_until(lambda c=client: hits(c), "a hit")
    return gateway, a, b, on_a, on_b


@pytest.fixture
def sealed(stage):
    """Lines for sealed sessions."""
    key = stage.directory / "key"
    key.write_text(base64.b64encode(bytes(range(32))).decode() + "\n", encoding="ascii")
    key.chmod(0o600)
    return ("MCPProxyAffinity sealed", 'MCPProxySessionKey "file:%s"' % key)


def test_no_hit_on_a_sealed_session_whose_member_is_out(caching, server, sealed):
    gateway, a, _, on_a, on_b = sessions_on_both(caching, server, *sealed)
    assert on_a.session not in a.sessions
    set_status(gateway, a.url, status_D=1)
    assert [on_a.post(ECHO).status for _ in range(2)] == [404, 404]
    assert hits(on_b)


@pytest.mark.parametrize("flag", ["status_D", "status_S"], ids=["disabled", "stopped"])
def test_no_hit_on_a_session_whose_member_is_out(caching, server, flag):
    gateway, a, _, on_a, on_b = sessions_on_both(caching, server)
    set_status(gateway, a.url, **{flag: 1})
    assert on_a.post(ECHO).status == 404
    assert on_a.post(ECHO).status == 404, "the table has forgotten it, and so has the cache"
    assert hits(on_b)


def test_no_hit_on_a_session_that_another_request_has_found_gone(caching, server):
    gateway, a, _, on_a, on_b = sessions_on_both(caching, server)
    set_status(gateway, a.url, status_D=1)
    assert on_a.post(call("whoami")).status == 404, "not for the cache"
    set_status(gateway, a.url, status_D=0)
    assert not hits(on_a), "a backend has the word"
    assert hits(on_b)


def test_a_draining_member_keeps_its_hits(caching, server):
    gateway, a, _, on_a, _ = sessions_on_both(caching, server)
    set_status(gateway, a.url, status_N=1)
    assert hits(on_a)


def test_hits_go_on_after_a_member_was_gone_for_a_while(caching, server):
    gateway, a, _, on_a, _ = sessions_on_both(caching, server)
    announce_a_dead_member(gateway)
    a.kill(forget=False)
    assert on_a.post(call("whoami")).status in (404, 502, 503)
    a.listen()
    wait_until(lambda: on_a.post(call("whoami")).status == 200, "the member to be back")
    assert hits(on_a), "the table knows the session all the time"
