# SPDX-License-Identifier: Apache-2.0
"""Backends that fail: the right status, the request's own id, and mod_proxy's bookkeeping."""
import json

import pytest

from harness import tags
from harness.backend import Nobody
from harness.client import ACCEPT, JSON, Mcp, assert_rpc_error, call, rpc
from harness.wait import wait_until
from test_members import MANAGER

POST = [ACCEPT, JSON]


def sending(data, then="gone"):
    """A script that answers with these bytes; then: wait till it is gone, close, reset."""

    def script(peer):
        peer.read_request()
        peer.send(data)
        {"gone": peer.wait_gone, "close": peer.close, "reset": peer.reset}[then]()

    return script


def ask(gw, ident=1, method="tools/call"):
    return gw.request("POST", "/mcp", POST, json.dumps(rpc(method, {"name": "x"}, ident)).encode())


def announce(gw, *expected):
    for tag in expected:
        gw.expect_log(tag)
    gw.expect_log(tags.MEMBER_ERROR, optional=True)


BAD_HEADS = {
    "garbage": b"\x16\x03\x01 nonsense\r\n\r\n",
    "no-version": b"200 OK\r\n\r\n",
    "http2": b"HTTP/2.0 200 OK\r\n\r\n",
    "status-0": b"HTTP/1.1 000 Zero\r\n\r\n",
    "status-99": b"HTTP/1.1 99 Odd\r\n\r\n",
    "status-1000": b"HTTP/1.1 1000 Odd\r\n\r\n",
    "status-text": b"HTTP/1.1 abc\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
    "negative": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "plus": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "hex": b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}",
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    "empty-length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}",
    "length-and-chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "gzip-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked-twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "unknown-coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    "no-colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "no-name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\n\r\n",
    "control": b"HTTP/1.1 200 OK\r\nX-A: b\x07c\r\n\r\n",
    "bare-cr": b"HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: x\r\n\r\n",
    "one-huge-header": b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 80_000 + b"\r\n\r\n",
    "endless-head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 40_000,
    "many-headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X%d: b\r\n" % n for n in range(900))
    + b"\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_bad_response_head_is_502(gateway, backend, name):
    b = backend(sending(BAD_HEADS[name]))
    gw = gateway(b)
    announce(gw, tags.BAD_HEAD)
    assert_rpc_error(ask(gw, name), 502, name)
    b.wait_gone()


@pytest.mark.parametrize("name", ["two-lengths", "length-list", "negative", "length-and-chunked"])
def test_a_head_that_contradicts_itself_is_502_for_who_asks_for_it_alone(gateway, backend, name):
    b = backend(sending(BAD_HEADS[name].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"))
    gw = gateway(b)
    announce(gw, tags.BAD_HEAD)
    answer = gw.request("HEAD", "/mcp")
    assert (answer.status, answer.header("Transfer-Encoding")) == (502, None)
    b.wait_gone()


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["nothing", "line", "head", "interim"],
)
def test_a_backend_that_goes_before_its_head_is_502(gateway, backend, data, then):
    gw = gateway(backend(sending(data, then)))
    announce(gw, tags.BACKEND_GONE)
    assert_rpc_error(ask(gw, 2**31), 502, 2**31)


@pytest.mark.parametrize("ident", [0, -1, 1.5, 2**53 + 1, "", "x", '\u00e4"\\\n', "1"])
def test_the_error_carries_the_requests_own_id(gateway, keep, ident):
    gw = gateway(keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    assert_rpc_error(ask(gw, ident), 503, ident)


def test_the_id_is_echoed_exactly_as_it_was_written(gateway, keep):
    gw = gateway(keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    body = b'{"jsonrpc":"2.0","method":"x","id":123456789012345678901234567890}'
    assert b'"id":123456789012345678901234567890' in gw.request(
        "POST", "/mcp", POST, body
    ).body.replace(b" ", b"")


def test_a_notification_gets_the_status_without_a_body(gateway, keep):
    gw = gateway(keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    answer = gw.request("POST", "/mcp", POST, json.dumps(rpc("notifications/x", {}, None)).encode())
    assert (answer.status, answer.body) == (503, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_requests_without_a_message_get_an_error_without_an_id(gateway, keep, method):
    gw = gateway(keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    assert_rpc_error(gw.request(method, "/mcp", [ACCEPT]), 503)


def test_head_gets_no_error_body(gateway, keep):
    gw = gateway(keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    with gw.connect() as client:
        assert client.request("HEAD", "/mcp").finish().status == 503
        assert client.buffer == b""


@pytest.mark.parametrize("single", [False, True], ids=["balancer", "single"])
def test_a_refused_connection_is_503(gateway, keep, single):
    gw = gateway(keep(Nobody()), single=single)
    announce(gw, tags.CONNECT_FAILED)
    for ident in range(3):
        assert_rpc_error(ask(gw, ident), 503, ident)


def test_an_error_that_ends_the_client_connection_says_so(gateway, backend):
    b = backend(sending(b"nonsense\r\n\r\n"))
    gw = gateway(b)
    announce(gw)
    gw.expect_log(tags.BAD_HEAD)
    with gw.connect() as client:
        answer = client.request("POST", "/mcp", POST, call("x", 1))
        assert_rpc_error(answer, 502, 1)
        if answer.header("Connection") != "close":
            assert client.request("OPTIONS", "/server-status?auto").finish().status == 200
        else:
            wait_until(client.is_closed_by_server, "the server to close")


# Retries


def test_what_was_never_sent_is_retried_on_another_member(gateway, server, keep):
    a = server(era="stateless")
    gw = gateway(keep(Nobody()), keep(Nobody()), a)
    announce(gw, tags.CONNECT_FAILED)
    for ident in range(6):
        assert ask(gw, ident).json()["id"] == ident
    assert len(a.requests) == 6


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 2", b"nonsense\r\n\r\n"], ids=["silent", "half", "bad"]
)
def test_what_was_sent_is_never_retried(gateway, backend, data, then):
    first, second = backend(sending(data, then)), backend(sending(data, then))
    gw = gateway(first, second)
    announce(gw)
    gw.expect_log("MCP204[45]")
    assert_rpc_error(ask(gw), 502, 1)
    assert len(first.requests) + len(second.requests) == 1


def test_a_post_on_a_connection_that_dies_while_it_is_sent_is_not_sent_twice(gateway, backend):
    """The first answer keeps the connection; the second request finds it closing."""

    def script(peer):
        peer.read_request()
        peer.answer(b"one")
        peer.read_head()
        peer.reset()

    b = backend(script)
    gw = gateway(b)
    announce(gw)
    gw.expect_log(tags.BACKEND_GONE)
    assert ask(gw).status == 200
    assert_rpc_error(ask(gw, 2), 502, 2)
    assert len(b.requests) == 2


def test_a_session_is_not_handed_to_another_member(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b)
    client = Mcp(gw).initialize()
    home, other = (a, b) if client.session in a.sessions else (b, a)
    announce(gw, tags.CONNECT_FAILED)
    home.kill()
    seen = len(other.requests)
    assert_rpc_error(client.post(call("x", 3)), 404, 3)
    assert len(other.requests) == seen


# What mod_proxy does after its scheme handler


def test_a_member_that_refuses_is_left_alone_until_its_retry(gateway, server):
    a, b = server("a", "stateless"), server("b", "stateless")
    gw = gateway(a, b, member="retry=3600")
    announce(gw, tags.CONNECT_FAILED)
    a.kill()
    for ident in range(4):
        assert ask(gw, ident).status == 200
    a.listen()
    for ident in range(8):
        assert ask(gw, ident).status == 200
    assert a.requests == []


def failing_then_other(gateway, backend, server, balancer, data):
    """A member that answers with these bytes, beside a healthy one that is a standby."""

    def script(peer):
        while True:
            peer.read_request()
            peer.send(data)

    bad, good = backend(script), server("good", "stateless")
    gw = gateway(bad, balancer=balancer, start=False)
    gw.balancer.append('BalancerMember "%s" route=z status=+H' % good.url)
    return gw.start(), bad, good


def test_failonstatus_puts_a_member_in_error(gateway, backend, server):
    gw, bad, good = failing_then_other(
        gateway,
        backend,
        server,
        ["ProxySet failonstatus=500,503"],
        b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    )
    announce(gw)
    first = ask(gw)
    assert (first.status, first.body) == (500, b"oops")
    wait_until(lambda: ask(gw, 2).status == 200, "the other member")
    assert len(bad.requests) == 1
    assert good.requests


def test_a_status_that_is_not_in_failonstatus_changes_nothing(gateway, backend, server):
    gw, bad, good = failing_then_other(
        gateway,
        backend,
        server,
        ["ProxySet failonstatus=503"],
        b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
    )
    for _ in range(3):
        assert ask(gw).status == 500
    assert good.requests == []


def test_failontimeout_puts_a_member_in_error(gateway, backend, server):
    def script(peer):
        peer.read_request()
        peer.wait_gone()

    bad, good = backend(script), server("good", "stateless")
    gw = gateway(
        bad,
        balancer=["ProxySet failontimeout=On"],
        start=False,
        location=["MCPProxyResponseTimeout 300ms"],
    )
    gw.balancer.append('BalancerMember "%s" route=z status=+H' % good.url)
    gw.start()
    announce(gw, tags.TIMEOUT)
    assert_rpc_error(ask(gw), 504, 1)
    wait_until(lambda: ask(gw, 2).status == 200, "the other member")
    assert len(bad.requests) == 1


def test_a_member_in_error_serves_again_after_its_retry(gateway, server):
    a, b = server("a", "stateless"), server("b", "stateless")
    gw = gateway(a, b, member="retry=1")
    announce(gw, tags.CONNECT_FAILED)
    a.kill()
    for ident in range(3):
        assert ask(gw, ident).status == 200
    a.listen()
    wait_until(lambda: ask(gw).status == 200 and a.requests, "the member to be used again")


def test_all_members_dead_is_503_every_time(gateway, keep):
    gw = gateway(keep(Nobody()), keep(Nobody()))
    announce(gw, tags.CONNECT_FAILED)
    for ident in range(4):
        assert_rpc_error(ask(gw, ident), 503, ident)


def test_no_usable_member_is_503(gateway, server):
    gw = gateway(server(era="stateless"), member="status=+D")
    announce(gw)
    assert_rpc_error(ask(gw, "q"), 503, "q")


def test_busy_counts_go_back_to_zero(gateway, server):
    a = server(era="stateless")
    gw = gateway(a, server=MANAGER)
    clients = [gw.connect() for _ in range(6)]
    body = json.dumps(call("hold")).encode()
    for client in clients:
        client.send(client.head("POST", "/mcp", POST, body) + body)
    a.wait_waiting(6)
    clients[0].close()
    wait_until(lambda: a.waiting == 5, "the backend to notice")
    a.release()
    for client in clients[1:]:
        assert client.response().finish().status == 200

    def busy():
        page = gw.request("GET", "/manager?xml=1", [("Referer", gw.origin + "/manager")]).body
        return page.split(b"<httpd:busy>")[1].split(b"<")[0]

    wait_until(lambda: busy() == b"0", "the busy count to be 0")


@pytest.mark.parametrize("target", ["/mcp?tenant=1&x=%20y", "/mcp/a%20b%25", "/mcp/a%20b?q=%25"])
def test_the_next_member_is_asked_for_the_same(gateway, server, target):
    a, b = server("a", "stateless"), server("b", "stateless")
    gw = gateway(a, b, member="retry=3600")
    announce(gw, tags.CONNECT_FAILED)
    gw.expect_log(tags.CONNECT_FAILED, optional=True)
    body = json.dumps(rpc("tools/call", {"name": "x"}, 1)).encode()
    a.kill()
    for _ in range(2):
        assert gw.request("POST", target, POST, body).status == 200
    assert [r.target for r in b.requests] == [target, target]
