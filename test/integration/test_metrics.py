# SPDX-License-Identifier: Apache-2.0
"""mcp-metrics: every name, in Prometheus' format, over all children, and never falling."""
import os
import pathlib
import re
import signal

import pytest

from harness import limits, tags
from harness.caching import MODULE as CACHE
from harness.client import ACCEPT, JSON, Mcp, call, rpc
from harness.gateway import ROOT
from harness.metrics import CONTRACT, PLACES, lint, promtool, scrape
from harness.wait import wait_until

needs_promtool = pytest.mark.skipif(not promtool(), reason="promtool (Debian: prometheus)")
ALL = [limits.LOAD, 'LoadModule mcp_cache_module "%s"' % CACHE, *PLACES]
HOSTILE = 'q"uo\\te'


def everything(gateway, server, **options):
    """All three modules, and something of each kind counted."""
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=ALL, location=["MCPRateLimitStreams 5", "MCPRateLimitMessages 90/60s",
                                             "MCPCacheTool '%s' 60s" % HOSTILE,
                                             "MCPCacheTool 'wh?ami*' 60s"], **options)
    client = Mcp(gw).initialize()
    client.where()
    stream = client.listen()
    return gw, client, stream


@needs_promtool
def test_promtool_finds_nothing_to_say_against_it(gateway, server):
    gw, _, _ = everything(gateway, server)
    text = scrape(gw).text
    assert lint(text) == ""
    assert lint(text.replace("# TYPE mcp_sessions gauge", "# TYPE mcp_sessions counter")), \
        "promtool would say so"


def test_every_name_of_the_contract_is_there_with_its_type(gateway, server):
    gw, _, _ = everything(gateway, server)
    got = scrape(gw)
    assert {name: got.types.get(name) for name in CONTRACT} == CONTRACT


def test_label_values_are_escaped(gateway, server):
    gw, _, _ = everything(gateway, server)
    assert r'tool="q\"uo\\te"' in scrape(gw).text


def test_a_histogram_is_cumulative_and_whole(gateway, server):
    gw, client, stream = everything(gateway, server)
    stream.connection.close()
    wait_until(lambda: scrape(gw)("mcp_stream_seconds_count") == 1, "the stream's end")
    got = scrape(gw)
    for name in [n for n, kind in got.types.items() if kind == "histogram"]:
        by_module = {}
        for labels, value in got.of(name + "_bucket").items():
            labels = dict(labels)
            assert re.fullmatch(r"\+Inf|\d+(\.\d+)?(e-\d+)?", labels["le"])
            by_module.setdefault(labels.get("module"), []).append((float(labels["le"]), value))
        for module, buckets in by_module.items():
            assert buckets == sorted(buckets), name
            rest = {"module": module} if module else {}
            assert [v for _, v in buckets] == sorted(v for _, v in buckets), name
            assert buckets[-1] == (float("inf"), got(name + "_count", **rest))
            assert got(name + "_sum", **rest) >= 0
    assert 0 < got("mcp_stream_seconds_sum") < 60


def test_requests_are_counted_by_method_and_status(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    client.where()
    client.where()
    for body in (rpc("made/up"), rpc("batch"), rpc("notifications/initialized", ident=None)):
        client.post(body)
    client.post({"jsonrpc": "2.0", "id": 5, "result": {}})
    text = [("Content-Type", "text/plain"), *[h for h in client.headers() if h != JSON]]
    gw.request("POST", "/mcp", text, b'{"jsonrpc":"2.0","method":"notifications/progress"}')
    gw.request("OPTIONS", "/mcp").finish()
    client.listen().connection.close()
    client.delete()
    assert client.post(call("whoami")).status == 404

    def counted():
        got = scrape(gw)
        return got("mcp_requests_total", method="GET", status="200") == 1 and got

    got = wait_until(counted, "the stream to be counted")
    by_method = {}
    for labels, value in got.of("mcp_requests_total").items():
        method = dict(labels)["method"]
        by_method[method] = by_method.get(method, 0) + value
    assert by_method == {"initialize": 1, "tools/call": 3, "other": 3, "response": 1,
                         "notifications/initialized": 1, "GET": 1, "DELETE": 1}
    assert got("mcp_requests_total", method="tools/call", status="200") == 2
    assert got("mcp_requests_total", method="tools/call", status="404") == 1


def test_what_is_refused_is_counted_by_its_method(gateway, server):
    gw = gateway(server("a"), server=PLACES, location=["Require mcp-tool whoami",
                                                       "Require mcp-method initialize"])
    gw.expect_log("AH01630", optional=True)
    client = Mcp(gw).initialize()
    assert client.post(call("drop")).status == 403
    assert client.post([call("drop")]).status == 403
    assert gw.request("POST", "/mcp", [ACCEPT, JSON], b"no JSON").status == 400
    got = wait_until(lambda: scrape(gw).of("mcp_requests_total").get(
        (("method", "other"), ("status", "400"))) and scrape(gw), "the requests to be counted")
    assert got("mcp_requests_total", method="tools/call", status="403") == 1
    assert got("mcp_requests_total", method="batch", status="403") == 1


def test_head_opens_no_stream_and_is_no_get(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    gw.request("HEAD", "/mcp").finish()
    got = wait_until(lambda: scrape(gw).total("mcp_requests_total") == 1 and scrape(gw),
                     "the request to be counted")
    counted = [dict(labels) for labels, value in got.of("mcp_requests_total").items() if value]
    assert [labels["method"] for labels in counted] == ["other"]


def test_a_client_that_left_before_the_answer_counts_as_499(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    pending = gw.connect()
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"hold"}}'
    pending.send(pending.head("POST", "/mcp", client.headers(), body) + body)
    a.wait_waiting(1)
    pending.close()
    wait_until(lambda: scrape(gw)("mcp_requests_total", method="tools/call", status="499") == 1,
               "the abandoned call")
    got = scrape(gw)
    assert got("mcp_disconnect_propagation_seconds_count") == 1
    a.release()


def test_streams_are_counted_while_open_and_for_good(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    streams = [client.listen() for _ in range(3)]
    got = scrape(gw)
    assert got("mcp_router_sse_connections") == 3
    assert got("mcp_router_sse_connections_total") == 3
    for _ in streams:
        gw.expect_log(tags.BACKEND_BROKE)
    a.end_streams(client.session, clean=False)
    for stream in streams:
        assert stream.wait_end() == "broken"
    wait_until(lambda: scrape(gw)("mcp_router_sse_connections") == 0, "the streams' ends")
    got = scrape(gw)
    assert got("mcp_router_sse_connections_total") == 3
    assert got("mcp_router_sse_errors_total") == 3
    assert got("mcp_stream_seconds_count") == 3


def test_sessions_are_counted_by_route(gateway, server):
    a, b = server("a"), server("b")
    gw = gateway(a, b, server=PLACES)
    for _ in range(5):
        Mcp(gw).initialize()
    got = scrape(gw)
    assert got("mcp_sessions", route="a") == len(a.sessions) > 0
    assert got("mcp_sessions", route="b") == len(b.sessions) > 0


def test_a_server_without_a_route_goes_by_its_url(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, single=True)
    Mcp(gw).initialize()
    assert list(scrape(gw).of("mcp_sessions").items()) == [((("route", a.url + "/mcp"),), 1)]


def test_events_are_timed(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES)
    client = Mcp(gw).initialize()
    stream = client.listen()
    for n in range(5):
        a.push(client.session, rpc("notifications/message", {"n": n}, None))
        stream.next_event()
    got = wait_until(lambda: scrape(gw)("mcp_event_delay_seconds_count") >= 5 and scrape(gw), "five")
    assert 0 < got("mcp_event_delay_seconds_sum") / got("mcp_event_delay_seconds_count") < 5


COUNTERS = ["mcp_router_sse_connections_total", "mcp_requests_total", "mcp_stream_seconds_count",
            "mcp_event_delay_seconds_count"]


def test_counters_outlive_a_killed_child_and_gauges_fall(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, children=2, threads=8)
    client = Mcp(gw).initialize()
    streams = [client.listen() for _ in range(12)]
    a.push(client.session, rpc("notifications/message", {}, None))
    for stream in streams:
        stream.next_event()
    wait_until(lambda: scrape(gw)("mcp_event_delay_seconds_count") >= 12, "the events")
    before = scrape(gw)
    for pid in gw.children():
        gw.expect_log("AH00052", optional=True)
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gw._answers() and scrape(gw)("mcp_router_sse_connections") == 0,
               "the gauge to fall")
    after = scrape(gw)
    for name in COUNTERS:
        assert after.total(name) >= before.total(name), name
    again = Mcp(gw).initialize()
    again.listen()
    last = scrape(gw)
    assert last("mcp_router_sse_connections") == 1
    assert last("mcp_router_sse_connections_total") == 13
    for labels, value in after.of("mcp_requests_total").items():
        assert last.of("mcp_requests_total")[labels] >= value


@pytest.mark.skipif(os.environ.get("MPM", "event") != "event", reason="event MPM")
def test_counters_survive_graceful_restarts(gateway, server):
    a = server("a")
    gw = gateway(a, server=PLACES, tuning=["MCPProxyDrainTimeout 1s"])
    client = Mcp(gw).initialize()
    stream = client.listen()
    for _ in range(3):
        client.where()
    before = scrape(gw)
    gw.graceful()
    stream.wait_end()
    wait_until(lambda: scrape(gw)("mcp_router_sse_connections") == 0, "the drained stream")
    client.where()
    after = scrape(gw)
    for name in COUNTERS:
        assert after.total(name) >= before.total(name), name
    assert after("mcp_requests_total", method="tools/call", status="200") == 4


def test_only_reading_is_allowed(gateway, server):
    gw = gateway(server("a"), server=PLACES)
    refused = gw.request("POST", "/metrics", [JSON, ACCEPT], b"{}")
    assert refused.status == 405
    assert {"GET", "HEAD"} <= set(refused.header("Allow").split(",")) <= {"GET", "HEAD", "TRACE"}
    assert gw.request("HEAD", "/metrics").finish().status == 200


def test_every_metric_is_documented_and_every_documented_one_exists(gateway, server):
    gw, _, _ = everything(gateway, server)
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    headed = set(re.findall(r"^#+ .*?`(mcp_[a-z_]+)`", page, re.M))
    assert headed == set(scrape(gw).types)


def test_the_dashboard_asks_for_metrics_that_exist(gateway, server):
    gw, _, _ = everything(gateway, server)
    got = scrape(gw)
    text = pathlib.Path(ROOT / "conf" / "grafana-dashboard.json").read_text(encoding="utf-8")
    known = set(got.types)
    for name, kind in got.types.items():
        if kind == "histogram":
            known |= {name + suffix for suffix in ("_bucket", "_sum", "_count")}
    asked = set(re.findall(r"\bmcp_[a-z_]+", text))
    assert asked and asked <= known
    assert set(CONTRACT) <= {re.sub("_(bucket|sum|count)$", "", name)
                             if name not in got.types else name for name in asked}
