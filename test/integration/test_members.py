# SPDX-License-Identifier: Apache-2.0
"""Sessions when a member is disabled, drained, dead, or back; steered with balancer-manager."""
import json
import re

import pytest

from harness import tags
from harness.client import Mcp, assert_rpc_error, call
from harness.wait import wait_until

MANAGER = ["<Location /manager>", "  SetHandler balancer-manager", "</Location>"]


def set_status(gw, url, **flags):
    """What an operator does in balancer-manager: status_D=1 disables, status_N=1 drains, ..."""
    here = ("Referer", gw.origin + "/manager")
    page = gw.request("GET", "/manager", [here]).body.decode()
    nonce = re.search(r"nonce=([0-9a-f-]+)", page)[1]
    fields = "&".join("w_%s=%d" % pair for pair in flags.items())
    body = "b=mcp&w=%s&nonce=%s&%s" % (url, nonce, fields)
    answer = gw.request(
        "POST",
        "/manager",
        [("Content-Type", "application/x-www-form-urlencoded"), here],
        body.encode(),
    )
    assert answer.status == 200


def sessions_on_both(gateway, server, **options):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=MANAGER, **options)
    clients = [Mcp(gw).initialize() for _ in range(6)]
    on_a = [client for client in clients if client.session in a.sessions]
    on_b = [client for client in clients if client.session in b.sessions]
    assert on_a and on_b
    return gw, a, b, on_a, on_b


@pytest.mark.parametrize("flag", ["status_D", "status_S"], ids=["disabled", "stopped"])
def test_sessions_of_a_member_that_is_out_are_404(gateway, server, flag):
    gw, a, b, on_a, on_b = sessions_on_both(gateway, server)
    set_status(gw, a.url, **{flag: 1})
    count = len(a.requests)
    for client in on_a:
        assert_rpc_error(client.post(call("whoami", "x")), 404, "x")
    assert len(a.requests) == count
    assert [client.where() for client in on_b] == ["b"] * len(on_b)


def test_sessions_of_a_member_that_was_out_are_forgotten(gateway, server):
    gw, a, b, on_a, _ = sessions_on_both(gateway, server)
    set_status(gw, a.url, status_D=1)
    assert on_a[0].post(call("whoami")).status == 404
    seen = len(b.requests)
    assert on_a[0].post(call("whoami")).status == 404
    assert len(b.requests) == seen + 1, "an unknown id is the other backend's to judge"


def test_new_sessions_avoid_a_disabled_member(gateway, server):
    gw, a, b, _, _ = sessions_on_both(gateway, server)
    set_status(gw, a.url, status_D=1)
    for _ in range(4):
        assert Mcp(gw).initialize().session in b.sessions


def test_a_draining_member_keeps_its_sessions_and_gets_no_new_ones(gateway, server):
    gw, a, b, on_a, _ = sessions_on_both(gateway, server)
    set_status(gw, a.url, status_N=1)
    for _ in range(6):
        assert Mcp(gw).initialize().session in b.sessions
    for client in on_a:
        assert client.where() == "a"
        stream = client.listen()
        assert stream.status == 200
        stream.connection.close()
        assert client.delete().status == 204


def announce_a_dead_member(gw):
    gw.expect_log(tags.CONNECT_FAILED)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    gw.expect_log("AH01114", optional=True)
    gw.expect_log("AH00957", optional=True)
    gw.expect_log("AH00959", optional=True)


def test_sessions_of_a_dead_member_are_404_and_others_notice_nothing(gateway, server):
    gw, a, b, on_a, on_b = sessions_on_both(gateway, server)
    announce_a_dead_member(gw)
    a.kill()
    for client in on_a:
        for _ in range(2):
            assert_rpc_error(client.post(call("whoami", 5)), 404, 5)
    assert [client.where() for client in on_b] == ["b"] * len(on_b)
    assert Mcp(gw).initialize().where() == "b"


def test_a_standing_stream_for_a_session_of_a_dead_member_is_404(gateway, server):
    gw, a, _, on_a, _ = sessions_on_both(gateway, server)
    announce_a_dead_member(gw)
    a.kill()
    assert_rpc_error(on_a[0].listen([("Last-Event-ID", "3")]), 404)


def test_a_session_works_again_when_its_member_is_back_with_it(gateway, server):
    gw, a, _, on_a, _ = sessions_on_both(gateway, server)
    announce_a_dead_member(gw)
    a.kill(forget=False)
    assert on_a[0].post(call("whoami")).status == 404
    a.listen()
    # The member is still in error: a known session is tried there all the same.
    assert on_a[0].where() == "a"
    assert on_a[-1].where() == "a"


def test_a_member_that_comes_back_gets_new_sessions(gateway, server):
    gw, a, b, on_a, _ = sessions_on_both(gateway, server, member="retry=1")
    announce_a_dead_member(gw)
    a.kill()
    on_a[0].post(call("whoami"))
    a.listen()
    wait_until(lambda: Mcp(gw).initialize().session in a.sessions, "a new session on a")


def test_a_failed_health_check_counts(gateway, server):
    a, b = server("a", "stateless"), server("b", "stateless")
    gw = gateway(a, b, modules=["watchdog", "proxy_hcheck"], member="hcmethod=TCP hcinterval=1")
    gw.expect_log("AH00957", optional=True)
    a.kill()
    gw.wait_log("AH03303", "DISABLING")
    seen = len(b.requests)
    for _ in range(6):
        assert gw.request("OPTIONS", "/mcp").status == 200
    assert len(b.requests) == seen + 6


HEALTH = "hcmethod=GET hcuri=/health hcinterval=1 hcfails=1 hcpasses=1"


def test_a_member_that_fails_its_health_check_keeps_its_sessions_and_gets_no_new_ones(
    gateway, server
):
    gw, a, b, on_a, on_b = sessions_on_both(
        gateway, server, modules=["watchdog", "proxy_hcheck"], member=HEALTH
    )
    stream = on_a[0].listen()
    a.is_healthy = False
    gw.wait_log("AH03303", "DISABLING")
    for _ in range(6):
        assert Mcp(gw).initialize().session in b.sessions
    assert [client.where() for client in on_a] == ["a"] * len(on_a)
    late = on_a[-1].listen()
    assert late.status == 200
    assert [client.where() for client in on_b] == ["b"] * len(on_b)
    a.push(on_a[0].session, {"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    assert "message" in stream.next_event()["data"]
    a.is_healthy = True
    gw.wait_log("AH03302")
    stream.connection.close()
    late.connection.close()
    wait_until(lambda: Mcp(gw).initialize().session in a.sessions, "a new session on a")


def test_streams_of_other_members_go_on_when_a_member_dies_and_comes_back(gateway, server):
    gw, a, b, on_a, on_b = sessions_on_both(gateway, server, member="retry=1")
    announce_a_dead_member(gw)
    gw.expect_log(tags.BACKEND_BROKE, optional=True)
    lost, kept = on_a[0].listen(), [client.listen() for client in on_b]
    a.kill()
    assert lost.wait_end() == "broken", "its client must see that this was no proper end"
    assert on_a[0].post(call("whoami")).status == 404
    a.listen()
    wait_until(lambda: Mcp(gw).initialize().session in a.sessions, "a new session on a")
    for client in on_b:
        b.push(client.session, {"jsonrpc": "2.0", "method": "notifications/message", "params": {}})
    assert all("message" in stream.next_event()["data"] for stream in kept)


def test_a_call_that_is_running_when_its_member_is_drained_finishes(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=MANAGER)
    client = Mcp(gw).initialize()
    home = a if client.session in a.sessions else b
    connection = gw.connect()
    body = json.dumps(call("hold", 9)).encode()
    connection.send(connection.head("POST", "/mcp", client.headers(), body) + body)
    home.wait_waiting(1)
    set_status(gw, home.url, status_N=1)
    home.release()
    assert connection.response().json()["id"] == 9
