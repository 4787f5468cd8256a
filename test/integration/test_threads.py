# SPDX-License-Identifier: Apache-2.0
"""No thread waits: one child with few threads, and far more streams and calls than threads.

Nothing here is timed. Where a call would hold a thread, the backend's barrier is never reached.
MCP_FULL=1 runs the sizes of the promise.
"""
import json
import os
import time

import pytest

from harness import process, tags
from harness.backend import BlackHole
from harness.client import ACCEPT, JSON, call, rpc
from harness.records import Records
from harness.wait import DEADLINE, FULL, settles, stays, wait_until

pytestmark = pytest.mark.skipif(
    os.environ.get("MPM", "event") != "event", reason="other MPMs hold a thread for each request"
)
THREADS = 16 if FULL else 8
STREAMS = 9000 if FULL else 120
CALLS = 1000 if FULL else 120
LISTEN = [("Accept", "text/event-stream")]


def post(client, message):
    body = json.dumps(message).encode()
    return client.send(client.head("POST", "/mcp", [ACCEPT, JSON], body) + body)


def tls_options(tls):
    return {"tls": True} if tls else {}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_open_streams_hold_no_thread(gateway, server, tls):
    a = server(era="sse")
    gw = gateway(a, threads=THREADS, streams=STREAMS + 100, **tls_options(tls))
    count = STREAMS if not tls else STREAMS // 3
    before = gw.thread_count()
    streams = [gw.connect().request("GET", "/mcp", LISTEN) for _ in range(count)]
    a.wait_streams(count)
    assert gw.thread_count() <= before + 2
    for _ in range(20):
        assert gw.request("OPTIONS", "/mcp").status == 200
    for stream in streams[:5] + streams[-5:]:
        assert stream.next_event()["event"] == "endpoint"
    wait_until(lambda: int(gw.status()["BusyWorkers"]) <= 2, "the workers to be free")
    gw.leave()
    a.wait_streams(0)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_calls_that_wait_for_their_answer_hold_no_thread(gateway, server, tls):
    a = server(era="stateless")
    gw = gateway(a, threads=THREADS, streams=CALLS + 100, **tls_options(tls))
    count = CALLS if not tls else CALLS // 3
    clients = [post(gw.connect(), call("hold", number)) for number in range(count)]
    a.wait_waiting(count)
    assert gw.request("OPTIONS", "/mcp").status == 200
    a.release()
    assert [client.response().json()["id"] for client in clients] == list(range(count))


def test_compression_by_type_costs_no_thread(gateway, server):
    """What Debian switches on. mod_filter gives its filters names of another kind."""
    a = server(era="stateless")
    gw = gateway(a, threads=THREADS, streams=CALLS + 100, modules=["filter", "deflate"],
                 location=["AddOutputFilterByType DEFLATE text/html application/json"])
    clients = [post(gw.connect(), call("hold", number)) for number in range(3 * THREADS)]
    a.wait_waiting(len(clients))
    a.release()
    assert [client.response().json()["id"] for client in clients] == list(range(len(clients)))


def test_streams_of_calls_hold_no_thread(gateway, backend, event):
    def script(peer):
        peer.read_request()
        peer.begin_stream().chunk(b"data: a\n\n").wait(event).chunk(b"data: b\n\n").end_chunks()

    b = backend(script)
    gw = gateway(b, threads=4)
    streams = [post(gw.connect(), call("x")).response() for _ in range(20)]
    for stream in streams:
        assert stream.next_event() == {"data": "a"}
    event.set()
    assert [stream.finish().body for stream in streams] == [b"data: a\n\ndata: b\n\n"] * 20


def hold_up(gw, backend, event, count=20, **arguments):
    """Calls that all hang until the event; another request is answered meanwhile."""
    clients = [post(gw.connect(), call("x", **arguments)) for _ in range(count)]
    backend.wait_requests(count)
    assert gw.request("OPTIONS", "/mcp").status == 200
    event.set()
    assert [client.response().finish().body for client in clients] == [b"{}"] * count


def test_a_backend_that_sends_its_answer_slowly_holds_no_thread(gateway, backend, event):
    def script(peer):
        if peer.read_request().method == "OPTIONS":
            peer.answer()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
        )
        peer.wait(event).send(b"}")

    b = backend(script)
    gw = gateway(b, threads=4)
    hold_up(gw, b, event)


def test_a_backend_that_stops_in_its_head_holds_no_thread(gateway, backend, event):
    def script(peer):
        if peer.read_request().method == "OPTIONS":
            peer.answer()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-").wait(event).send(b"Length: 2\r\n\r\n{}")

    b = backend(script)
    gw = gateway(b, threads=4)
    hold_up(gw, b, event)


def test_a_backend_that_does_not_read_holds_no_thread(gateway, backend, event):
    def script(peer):
        head = peer.read_head()
        if head.method == "POST":
            peer.wait(event)._read_exactly(int(head.header("Content-Length")))
        peer.answer(b"{}")

    b = backend(script, send_buffer=65536)
    gw = gateway(b, threads=4, location=["MCPProxyMaxBody 20M"])
    hold_up(gw, b, event, count=8, blob="y" * 9_000_000)


def test_slow_uploads_hold_no_thread(gateway, server):
    a = server(era="stateless")
    gw = gateway(a, threads=4)
    body = json.dumps(call("echo")).encode()
    clients = [gw.connect() for _ in range(20)]
    for client in clients:
        client.send(
            client.head("POST", "/mcp", [ACCEPT, JSON, ("Content-Length", str(len(body)))])
            + body[:10]
        )
    for _ in range(5):
        assert gw.request("OPTIONS", "/mcp").status == 200
    for client in clients:
        assert client.send(body[10:]).response().finish().status == 200


@pytest.mark.parametrize("ahead", [0, 1, 25], ids=["alone", "behind-an-empty-one", "behind-many"])
def test_uploads_that_stop_within_a_tls_record_hold_no_thread(gateway, server, keep, ahead):
    gw = gateway(server(era="stateless"), threads=4, tls=True)
    body = json.dumps(call("echo")).encode()
    stopped = []
    for _ in range(12):
        client = keep(Records(gw))
        client.send(client.head("POST", "/mcp", [ACCEPT, JSON], body))
        start = b"".join(client.empty_record() for _ in range(ahead))
        record = client.record(body)
        stopped.append((client.send_raw(start + record[:-5]), record[-5:]))
    for _ in range(5):
        assert gw.request("POST", "/mcp", [ACCEPT, JSON], body).status == 200
    for client, rest in stopped:
        assert client.send_raw(rest).response().finish().status == 200


def test_an_upload_behind_many_tls_records_without_data_is_read(gateway, server, keep):
    client = keep(Records(gateway(server(era="stateless"), tls=True)))
    body = json.dumps(call("echo")).encode()
    start = client.record(client.head("POST", "/mcp", [ACCEPT, JSON], body))
    start += b"".join(client.empty_record() for _ in range(40))
    assert client.send_raw(start + client.record(body)).response().finish().status == 200


def test_a_black_holed_member_slows_nobody(gateway, server, keep):
    a, hole = server(era="sse"), keep(BlackHole())
    gw = gateway(a, hole, threads=4, location=["MCPProxyConnectTimeout %ds" % (DEADLINE * 0.8)])
    gw.expect_log(tags.TIMEOUT, "ConnectTimeout", optional=True)
    stream = gw.connect().request("GET", "/mcp", LISTEN)
    session = json.loads('"%s"' % stream.next_event()["data"].split("=")[1])
    # With a stream on the healthy one, everything new goes into the hole.
    stuck = [gw.connect() for _ in range(12)]
    for client in stuck:
        client.send(client.head("GET", "/mcp", LISTEN))
    body = json.dumps(rpc("tools/list")).encode()
    for _ in range(10):
        assert gw.request("POST", "/mcp?sessionId=" + session, [ACCEPT, JSON], body).status == 202


def test_those_who_went_to_a_black_hole_are_served_by_another_member(gateway, server, keep):
    a, hole = server(era="stateless"), keep(BlackHole())
    gw = gateway(hole, a, threads=4, location=["MCPProxyConnectTimeout 1s"])
    gw.expect_log(tags.TIMEOUT, "ConnectTimeout")
    gw.expect_log(tags.MEMBER_ERROR, optional=True)
    clients = [post(gw.connect(), call("echo", number)) for number in range(12)]
    assert [client.response().json()["id"] for client in clients] == list(range(12))


def test_idle_keep_alive_connections_hold_no_thread_after_a_stream(gateway, server):
    gw = gateway(server(era="stateless"), threads=4)
    clients = [gw.connect() for _ in range(40)]
    for client in clients:
        assert post(client, call("progress")).response().finish().status == 200
    assert gw.request("OPTIONS", "/mcp").status == 200
    for client in clients:
        assert post(client, call("echo", 5)).response().json()["id"] == 5


def test_streams_cost_no_cpu_while_they_are_quiet(gateway, server):
    a = server(era="sse")
    gw = gateway(a, threads=4)
    for _ in range(40):
        gw.connect().request("GET", "/mcp", LISTEN)
    a.wait_streams(40)
    settles(lambda: sum(map(process.cpu_ticks, gw.children())), 0.3)
    before = sum(map(process.cpu_ticks, gw.children()))
    stays(lambda: True, 1.0)
    assert sum(map(process.cpu_ticks, gw.children())) - before < 0.2 * os.sysconf("SC_CLK_TCK")


def test_clients_that_come_and_vanish_leave_nothing_behind(gateway, server):
    a = server(era="sse")
    gw = gateway(a, threads=THREADS, streams=5000)
    # All workers busy for a moment: httpd may say so.
    gw.expect_log("AH00484", optional=True)
    for client in [gw.connect() for _ in range(10)]:
        client.request("GET", "/mcp", LISTEN)
    gw.leave()
    a.wait_streams(0)
    before, memory = settles(gw.descriptor_count), gw.pss_kib()
    rounds, size = (1000, 2000) if FULL else (5, 200)
    end = time.monotonic() + 60
    for number in range(rounds):
        if time.monotonic() > end:
            break
        # Each asks at once: a connection without a request holds a worker of httpd's.
        clients = []
        for _ in range(size):
            clients.append(gw.connect())
            clients[-1].send(clients[-1].head("GET", "/mcp", LISTEN))
        for client in clients:
            client.reset() if number % 2 else client.close()
    a.wait_streams(0)
    # Idle connections to the backend may stay: at most one for each thread.
    wait_until(lambda: gw.descriptor_count() <= before + THREADS, "the descriptors to come back")
    # What a worker may still look at is kept for a few seconds.
    wait_until(
        lambda: gw.pss_kib() - memory < (20_000 if FULL else 5_000), "the memory to come back"
    )
    assert gw.request("OPTIONS", "/mcp").status == 200


def test_the_old_generation_goes_once_its_streams_are_gone(gateway, server):
    a = server(era="sse")
    gw = gateway(a, threads=4)
    streams = [gw.connect().request("GET", "/mcp", LISTEN) for _ in range(10)]
    calls = [gw.connect() for _ in range(5)]
    for client in calls:
        assert client.request("OPTIONS", "/mcp").finish().status == 200
    for stream in streams[:5]:
        stream.connection.close()
    a.wait_streams(5)
    old = gw.children()
    gw.graceful()
    gw.leave()
    wait_until(lambda: not set(old) & set(gw.children()), "the old child to go")


def test_a_stop_with_streams_and_calls_open_is_prompt_and_clean(gateway, server):
    a = server(era="stateless")
    gw = gateway(a, threads=4)
    clients = [post(gw.connect(), call("hold", number)) for number in range(10)]
    listening = [post(gw.connect(), rpc("subscriptions/listen")).response() for _ in range(10)]
    a.wait_waiting(10)
    a.wait_streams(10)
    assert gw.stop() == []
    assert all(stream.wait_end() for stream in listening)
    assert not [client for client in clients if client.fill() and b" 200 " in client.buffer]
