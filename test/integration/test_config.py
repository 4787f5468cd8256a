# SPDX-License-Identifier: Apache-2.0
"""What httpd -t refuses, what the start warns of, and scopes."""
import json
import re
import subprocess

import pytest

from harness import tags
from harness.client import ACCEPT, JSON, Mcp, rpc
from harness.gateway import MODULE
from harness.wait import wait_until


def check(gateway, *backends, **options):
    return gateway(*backends, start=False, **options).check_config()


DURATIONS = [
    "MCPProxySessionTTL",
    "MCPProxyConnectTimeout",
    "MCPProxyBodyTimeout",
    "MCPProxyResponseTimeout",
    "MCPProxyStreamTimeout",
    "MCPProxyWriteTimeout",
    "MCPProxyHeartbeat",
    "MCPProxyDrainTimeout",
]
BAD = [(name, value) for name in DURATIONS for value in ("x", "-1s", "5y", '""', "1s2")]
BAD += [("MCPProxyMaxBody", value) for value in ("x", "-1", "4Q", "4 M")]
BAD += [("MCPProxyMaxStreams", value) for value in ("x", "-1", "0", "4K5", "1.5")]
BAD += [("MCPProxySessionStore", value) for value in ("disk:1", "shm:", "shm:x", "shm:-1", "shm:0")]
BAD += [("MCPProxySessionStore", "redis://127.0.0.1:x/1"), ("MCPProxySessionStore", "redis+unix:x")]
BAD += [
    ("MCPProxyAffinity", "sticky"),
    ("MCPProxyAsync", "perhaps"),
    ("MCPProxyCheckHeaders", "1"),
    ("MCPProxy", "maybe"),
    ("MCPProxyAllowOrigin", ""),
    ("MCPProxyAllowOrigin", "example.com"),
    ("MCPProxyAllowOrigin", "http://a/b"),
]


@pytest.mark.parametrize("name, value", BAD)
def test_a_bad_value_is_refused_and_named(gateway, server, name, value):
    status, said = check(gateway, server(), server=["%s %s" % (name, value)])
    assert status != 0
    assert name in said
    assert value.strip('"').split(" ")[0] in said


GOOD = [
    "MCPProxyConnectTimeout 250ms",
    "MCPProxyBodyTimeout 30",
    "MCPProxyResponseTimeout 5mi",
    "MCPProxyStreamTimeout 5m",
    "MCPProxyStreamTimeout 1d",
    "MCPProxyWriteTimeout 2h",
    "MCPProxyHeartbeat Off",
    "MCPProxyHeartbeat 15s",
    "MCPProxySessionTTL 4h",
    "MCPProxyDrainTimeout 10s",
    "MCPProxyMaxBody 64K",
    "MCPProxyMaxBody 1G",
    "MCPProxyMaxBody 500",
    "MCPProxyAllowOrigin same",
    "MCPProxyAllowOrigin *",
    "MCPProxyAllowOrigin https://a.example http://b:81",
    "MCPProxyAsync Off",
    "MCPProxyAffinity table",
    "MCPProxySessionStore shm",
    "MCPProxySessionStore shm:1000",
    'MCPProxySessionStore "redis://127.0.0.1:6379/6"',
    'MCPProxySessionStore "redis+unix:/run/redis.sock?db=6"',
    "MCPProxyCheckHeaders Off",
    "MCPProxyRescue On",
    "MCPProxy Off",
]


@pytest.mark.parametrize("line", GOOD)
def test_a_good_value_is_taken(gateway, server, line):
    status, said = check(gateway, server(), server=[line])
    assert status == 0, said


LOCAL = [
    "MCPProxyConnectTimeout 5s",
    "MCPProxyBodyTimeout 5s",
    "MCPProxyResponseTimeout 5s",
    "MCPProxyStreamTimeout 5s",
    "MCPProxyWriteTimeout 5s",
    "MCPProxyHeartbeat 5s",
    "MCPProxyMaxBody 5K",
    "MCPProxyAllowOrigin *",
    "MCPProxyCheckHeaders Off",
]
GLOBAL = [
    ("MCPProxyAffinity", "table", "sealed"),
    ("MCPProxyAsync", "On", "Off"),
    ("MCPProxySessionStore", "shm:100", "shm:200"),
    ("MCPProxySessionTTL", "1h", "2h"),
    ("MCPProxyMaxStreams", "100", "200"),
    ("MCPProxyDrainTimeout", "1s", "2s"),
]


@pytest.mark.parametrize("line", LOCAL)
@pytest.mark.parametrize(
    "place",
    ["<VirtualHost *:1>", '<Location "/x">', '<Proxy "balancer://x">', '<LocationMatch "^/y">'],
)
def test_local_directives_stand_anywhere(gateway, server, line, place):
    close = "</%s>" % re.match(r"<(\w+)", place)[1]
    status, said = check(gateway, server(), server=[line, place, line, close])
    assert status == 0, said


@pytest.mark.parametrize("name, one, two", GLOBAL)
def test_two_values_of_a_global_directive_are_refused(gateway, server, name, one, two):
    lines = ["%s %s" % (name, one), "<VirtualHost *:1>", "%s %s" % (name, two), "</VirtualHost>"]
    status, said = check(gateway, server(), server=lines, streams=0)
    assert status != 0
    assert name in said


@pytest.mark.parametrize("name, one, two", GLOBAL)
@pytest.mark.parametrize("place", ["<VirtualHost *:1>", '<Location "/x">'])
def test_a_global_directive_may_stand_anywhere_with_one_value(
    gateway, server, name, one, two, place
):
    close = "</%s>" % re.match(r"<(\w+)", place)[1]
    lines = ["%s %s" % (name, one), place, "%s %s" % (name, one), close]
    status, said = check(gateway, server(), server=lines, streams=0)
    assert status == 0, said


@pytest.mark.parametrize("lbmethod", ["byrequests", "bytraffic", "bybusyness"])
def test_another_lbmethod_is_refused(gateway, server, lbmethod):
    status, said = check(
        gateway, server(), lbmethod=lbmethod, modules=["lbmethod_bytraffic", "lbmethod_bybusyness"]
    )
    assert status != 0
    assert "lbmethod" in said and "MCPProxy" in said


def test_an_lbmethod_that_was_forgotten_is_refused(gateway, server):
    gw = gateway(server(), start=False)
    text = gw.config
    gw.config = lambda: text().replace("ProxySet lbmethod=mcp", "")
    status, said = gw.check_config()
    assert status != 0
    assert "lbmethod" in said


@pytest.mark.parametrize("section", ['Proxy "balancer://other"', 'Proxy "balancer://o*"',
                                     'ProxyMatch "^balancer://other/"'])
@pytest.mark.parametrize("where", ["server", "location"])
def test_on_in_a_proxy_section_needs_the_lbmethod_too(gateway, server, section, where):
    a = server()
    way = {"server": ['ProxyPass "/other" "balancer://other/mcp"'],
           "location": ['<Location "/other">', 'ProxyPass "balancer://other/mcp"', "</Location>"]}
    lines = ['<Proxy "balancer://other">', 'BalancerMember "%s"' % a.url, "</Proxy>",
             "<%s>" % section, "MCPProxy On", "</%s>" % section.split()[0], *way[where]]
    status, said = check(gateway, a, server=lines)
    assert status != 0
    assert "MCPProxy On needs lbmethod=mcp on balancer://other" in said
    off = [*lines, '<Location "/other">', "MCPProxy Off", "</Location>"]
    if where == "server":
        assert check(gateway, a, server=off)[0] == 0, "the <Location> wins"


@pytest.mark.parametrize("where", ["balancer", "pass"])
def test_a_sticky_session_is_refused(gateway, server, where):
    gw = gateway(
        server(),
        start=False,
        balancer=["ProxySet stickysession=ROUTE"] if where == "balancer" else [],
    )
    if where == "pass":
        text = gw.config
        gw.config = lambda: text().replace(
            '"balancer://mcp/mcp"', '"balancer://mcp/mcp" stickysession=ROUTE'
        )
    status, said = gw.check_config()
    assert status != 0
    assert "stickysession" in said


def test_another_lbmethod_is_fine_where_the_module_is_off(gateway, server):
    status, said = check(gateway, server(), lbmethod="byrequests", mcp=False)
    assert status == 0, said


def test_the_module_may_be_loaded_ahead_of_those_it_needs(gateway, server):
    """As Debian does, which reads mods-enabled/*.load by name."""
    gw = gateway(server(era="stateless"), start=False)
    text = gw.config
    load = 'LoadModule mcp_proxy_module "%s"\n' % MODULE
    gw.config = lambda: load + text().replace(load, "")
    gw.start()
    assert gw.request("POST", "/mcp", [ACCEPT, JSON], b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
                      ).status == 200
    gw.graceful()
    assert gw.request("POST", "/mcp", [ACCEPT, JSON], b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
                      ).status == 200


def test_the_module_says_what_it_needs(gateway):
    gw = gateway(start=False)
    text = gw.config
    gw.config = lambda: "\n".join(line for line in text().splitlines()
                                  if not re.match("LoadModule (proxy|lbmethod)|ProxyPass", line))
    status, said = gw.check_config()
    assert status != 0
    assert "a2enmod proxy" in said


def test_the_module_exports_one_symbol():
    out = subprocess.run(
        ["nm", "-D", "--defined-only", str(MODULE)], check=True, text=True, capture_output=True
    ).stdout
    names = [
        line.split()[-1]
        for line in out.splitlines()
        if " T " in line or " D " in line or " B " in line or " R " in line
    ]
    assert names == ["mcp_proxy_module"]


def test_a_module_that_is_not_used_starts_quietly(gateway):
    assert gateway().request("GET", "/nothing").status == 404


# Inheritance


def test_a_section_overrides_only_what_it_sets(gateway, server):
    gw = gateway(
        server(era="stateless"),
        routes={"/mcp": "/mcp", "/other": "/mcp"},
        server=[
            "MCPProxyMaxBody 1K",
            "MCPProxyAllowOrigin http://a.example",
            '<Location "/other">',
            "  MCPProxyMaxBody 100K",
            "</Location>",
        ],
    )
    gw.expect_log(tags.BODY_TOO_LARGE)
    body, json_type = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"%s"}}' % (
        b"x" * 2000
    ), [("Content-Type", "application/json")]
    assert gw.request("POST", "/mcp", json_type, body).status == 413
    assert gw.request("POST", "/other", json_type, body).status == 200
    foreign, known = [("Origin", "http://b.example")], [("Origin", "http://a.example")]
    assert gw.request("POST", "/other", json_type + foreign, body).status == 403
    assert gw.request("POST", "/other", json_type + known, body).status == 200


def test_a_vhost_that_sets_one_directive_keeps_the_others(gateway, server):
    a = server(era="stateless")
    gw = gateway(a, start=False)
    gw.server += [
        "MCPProxyMaxBody 1K",
        "<VirtualHost *:%d>" % gw.port,
        "ServerName localhost",
        "MCPProxyHeartbeat 10s",
        "</VirtualHost>",
    ]
    gw.start()
    gw.expect_log(tags.BODY_TOO_LARGE)
    body = b'{"a":"%s"}' % (b"x" * 2000)
    assert gw.request("POST", "/mcp", [("Content-Type", "application/json")], body).status == 413


# Start-up

WARNINGS = {
    "AsyncRequestWorkerFactor": (["AsyncRequestWorkerFactor 2"], tags.CAPACITY),
    "ServerLimit": (["ServerLimit 1"], tags.RESTART_ROOM),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_the_start_warns_where_the_mpm_cannot_hold_the_streams(gateway, server, name):
    lines, tag = WARNINGS[name]
    gw = gateway(server(), tuning=lines)
    gw.wait_log(tag, name)


def test_the_start_warns_of_a_limit_of_connections_that_is_none(gateway, server):
    gw = gateway(server(), server(), member="max=2")
    assert gw.wait_log(tags.MEMBER_LIMIT, "max=2").level == "warn"
    assert len([line for line in gw.log() if line.is_bad]) == 1


def test_the_start_warns_of_too_few_descriptors(gateway, server):
    gw = gateway(server(), streams=5_000_000)
    gw.expect_log(tags.CAPACITY, "AsyncRequestWorkerFactor", optional=True)
    line = gw.wait_log(tags.OPEN_FILES)
    gw.expect_log(tags.OPEN_FILES, "open files", optional=True)
    assert line.level == "warn"


def test_a_start_with_enough_of_everything_warns_of_nothing(gateway, server):
    gw = gateway(server())
    assert [line.raw for line in gw.log() if line.is_bad] == []


def test_the_module_works_when_a_graceful_restart_loads_it_first(gateway, server):
    a = server()
    gw = gateway(a, start=False)
    text = gw.config
    gw.config = (
        lambda: text().split("LoadModule mcp_proxy_module")[0]
        + "\n".join(
            line
            for line in text().splitlines()
            if line.split(" ")[0]
            in (
                "User",
                "Group",
                "ServerRoot",
                "DefaultRuntimeDir",
                "PidFile",
                "ErrorLog",
                "ServerName",
                "Listen",
                "StartServers",
                "ServerLimit",
                "ThreadsPerChild",
                "ThreadLimit",
                "MaxRequestWorkers",
                "MinSpareThreads",
                "MaxSpareThreads",
            )
        )
        + ("\n<Location /server-status>\nSetHandler server-status\n</Location>\n")
    )
    gw.start()
    gw.config = text
    gw.write_config()
    gw.graceful()
    # The old generation knows no proxy, and may take a connection until it has closed its listener.
    ping = json.dumps(rpc("ping")).encode()
    wait_until(
        lambda: b"<html>" not in gw.request("POST", "/mcp", [ACCEPT, JSON], ping).body,
        "the new generation"
    )
    wait_until(lambda: len(gw.children()) == 1, "the old child to go")
    client = Mcp(gw).initialize()
    assert client.where() == "a"


def test_graceful_restarts_work_again_and_again(gateway, server):
    a = server()
    gw = gateway(a)
    client = Mcp(gw).initialize()
    for _ in range(4):
        gw.graceful()
        assert client.where() == "a"
    wait_until(lambda: len(gw.children()) == 1, "the old children to go")
