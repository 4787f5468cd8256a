# SPDX-License-Identifier: Apache-2.0
"""What httpd -t warns of: configurations that run, with directives that do nothing."""
import os
import re

import pytest

from harness.gateway import BUILD

OURS = ["LoadModule mcp_%s_module %s/mod_mcp_%s/.libs/mod_mcp_%s.so" % (n, BUILD, n, n)
        for n in ("ratelimit", "cache")]
SITE = '<Location "/mcp">\nProxyPass "http://127.0.0.1:9/mcp"\nMCPProxy On\n%s\n</Location>'


def said(gateway, *lines, modules=(), ours=True):
    """The warnings of httpd -t, without what is no advice."""
    gw = gateway(start=False, streams=0, modules=modules,
                 server=[*(OURS if ours else []), "AsyncRequestWorkerFactor 1000", *lines])
    text = gw.config
    gw.config = lambda: text().replace("AsyncRequestWorkerFactor 2000\n", "")
    status, output = gw.check_config()
    assert status == 0, output
    return re.findall(r"(MCP\d+): (.*)", output)


def advice(gateway, tag, *lines, **options):
    """The one warning that is expected."""
    found = said(gateway, *lines, **options)
    assert [name for name, _ in found] == [tag], found
    return found[0][1]


def test_a_good_configuration_has_no_warnings(gateway):
    assert said(gateway, "MCPProxyHeartbeat 10s", SITE % "MCPProxyMaxBody 1K\nMCPCacheTool a_* 60s\n"
                "MCPCacheTool * 30s\nMCPRateLimitMessages 5/1s\nMCPRateLimitHeaders draft",
                "MCPCacheStore shm:2M", '<Location "/other">\nProxyPass "http://127.0.0.1:9/x"\n'
                "</Location>", 'ProxyPass "/z/y" "http://127.0.0.1:9/"',
                'ProxyPass "/z" "http://127.0.0.1:9/"') == []


def test_settings_where_nothing_is_on(gateway):
    text = advice(gateway, "MCP2076", "MCPProxyHeartbeat 10s")
    assert text.startswith("MCPProxyHeartbeat (") and ".conf:" in text
    advice(gateway, "MCP2076", "MCPProxy Off", '<Location "/x">\nMCPProxyMaxBody 1K\n</Location>')


@pytest.mark.parametrize("section", ['Proxy "http://127.0.0.1:9/mcp"', 'Proxy "http://127.0.0.1:9/*"',
                                     'ProxyMatch "^http:"'])
def test_on_in_a_section_about_the_server_is_on(gateway, section):
    lines = ["<%s>" % section, "MCPProxy On", "MCPProxyMaxBody 1K", "</%s>" % section.split()[0]]
    assert said(gateway, *lines, 'ProxyPass "/mcp" "http://127.0.0.1:9/mcp"') == []


def test_on_where_nothing_is_proxied(gateway):
    text = advice(gateway, "MCP2077", '<Location "/mcp">\nMCPProxy On\n</Location>')
    assert '"/mcp"' in text and "ProxyPass" in text
    advice(gateway, "MCP2077", '<Location "/mcp">\nMCPProxy On\n</Location>',
           'ProxyPass "/other" "http://127.0.0.1:9/"')


@pytest.mark.parametrize(
    "lines",
    [
        ['ProxyPass "/" "http://127.0.0.1:9/"'],
        ['ProxyPass "/mcp/inner" "http://127.0.0.1:9/"'],
        ['ProxyPassMatch "^/m" "http://127.0.0.1:9/"'],
        ['<Location "/">\nProxyPass "http://127.0.0.1:9/"\n</Location>'],
        ["RewriteEngine On", 'RewriteRule "^/(m.*)" "http://127.0.0.1:9/$1" [P]'],
    ],
)
def test_on_where_something_else_proxies_is_fine(gateway, lines):
    assert said(gateway, *lines, '<Location "/mcp">\nMCPProxy On\n</Location>',
                modules=["rewrite"]) == []


def test_on_for_a_scheme_that_is_not_taken_over(gateway):
    text = advice(gateway, "MCP2077", '<Location "/mcp">\nProxyPass "ajp://127.0.0.1:9/"\n'
                  "MCPProxy On\n</Location>", modules=["proxy_ajp"])
    assert "ajp" in text


def test_a_section_that_a_later_one_covers(gateway):
    late = '<Location "/">\nProxyPass "http://127.0.0.1:9/x"\n</Location>'
    text = advice(gateway, "MCP2078", SITE % "", late)
    assert '"/mcp"' in text and '"/"' in text
    assert said(gateway, late, SITE % "") == []


def test_a_pass_that_an_earlier_one_covers(gateway):
    lines = ['ProxyPass "/" "http://127.0.0.1:9/"', 'ProxyPass "/mcp" "http://127.0.0.1:9/mcp"']
    assert "/mcp" in advice(gateway, "MCP2078", "MCPProxy On", *lines)
    assert said(gateway, "MCPProxy On", *reversed(lines)) == []
    assert said(gateway, *lines) == []


def test_filters_on_event_streams(gateway):
    assert "DEFLATE" in advice(gateway, "MCP2079", SITE % "SetOutputFilter DEFLATE",
                               modules=["filter", "deflate"])
    line = "AddOutputFilterByType DEFLATE text/html text/event-stream"
    assert "DEFLATE" in advice(gateway, "MCP2079", line, SITE % "", modules=["filter", "deflate"])
    assert said(gateway, "AddOutputFilterByType DEFLATE text/html application/json", SITE % "",
                modules=["filter", "deflate"]) == []


def test_limits_that_are_none(gateway):
    assert "nothing is limited" in advice(gateway, "MCP3011", "MCPRateLimitHeaders draft")
    for line in ("MCPRateLimitTimeout 10ms", "MCPRateLimitLease 10s", "MCPRateLimitOnError closed"):
        text = advice(gateway, "MCP3011", line, "MCPRateLimitMessages 5/1s")
        assert text.startswith(line.split()[0]) and "Redis" in text
        assert said(gateway, line, "MCPRateLimitMessages 5/1s",
                    'MCPRateLimitStore "redis://127.0.0.1:9/1"') == []


def test_a_cache_of_nothing(gateway):
    assert "nothing is cached" in advice(gateway, "MCP4011", "MCPCacheStore shm:2M")


@pytest.mark.parametrize("wide, narrow, hidden", [
    ("*", "get_x", True), ("get_*", "get_a*", True), ("get_x", "get_x", True),
    ("get_?", "get_x", True), ("get_?", "get_*", False), ("get_a*", "get_*", False),
    ("get_x", "get_y", False),
])
def test_a_tool_whose_pattern_is_behind_a_wider_one(gateway, wide, narrow, hidden):
    lines = SITE % ("MCPCacheTool %s 60s\nMCPCacheTool %s 0" % (wide, narrow))
    if hidden:
        assert narrow in advice(gateway, "MCP4011", lines)
    else:
        assert said(gateway, lines) == []


BALANCER = ('<Proxy "balancer://b">\nBalancerMember "http://127.0.0.1:9" %s\n'
            'BalancerMember "http://127.0.0.1:10"%s\nProxySet lbmethod=mcp\n</Proxy>')
TO_BALANCER = '<Location "/mcp">\nProxyPass "balancer://b/mcp"\nMCPProxy %s\n</Location>'


@pytest.mark.parametrize("lines, limited", [
    ((BALANCER % ("", " max=7"), TO_BALANCER % "On"), ":10"),
    ((SITE.replace('9/mcp"', '9/mcp" max=7') % "",), ":9/mcp"),
    ((SITE % "", '<Proxy "http://127.0.0.1:9/mcp">\nProxySet max=7\n</Proxy>'), ":9/mcp"),
    (('ProxyPass "/x" "unix:/s|http://there/" max=7', "MCPProxy On"), "there"),
], ids=["member", "single", "set", "unix"])
def test_a_limit_of_connections_to_a_server(gateway, lines, limited):
    text = advice(gateway, "MCP2084", *lines, "<VirtualHost *:1>\n</VirtualHost>")
    assert text.startswith("max=7 of ") and limited + " " in text.replace("/ ", " ")


def test_a_limit_of_connections_to_a_server_that_is_not_ours(gateway):
    other = BALANCER.replace("lbmethod=mcp", "lbmethod=byrequests")
    assert said(gateway, other % ("max=7", ""), TO_BALANCER % "Off", SITE % "") == []
    assert said(gateway, BALANCER % ("smax=3 ttl=9", " acquire=5"), TO_BALANCER % "On") == []


def test_streams_that_the_mpm_cannot_hold(gateway):
    text = advice(gateway, "MCP2072", SITE % "", "MCPProxyMaxStreams 50000",
                  "AsyncRequestWorkerFactor 2")
    assert "AsyncRequestWorkerFactor" in text


@pytest.mark.parametrize("directive", ["MCPRateLimitStore", "MCPCacheStore"])
def test_a_password_file_that_is_missing(gateway, directive):
    line = '%s "redis://127.0.0.1:9/1" password=file:/nowhere/at/all' % directive
    status, output = gateway(start=False, server=[*OURS, line]).check_config()
    assert status != 0
    assert directive in output and "/nowhere/at/all" in output


@pytest.mark.parametrize("directive", ["MCPRateLimitStore", "MCPCacheStore",
                                       "MCPProxySessionStore"])
def test_a_password_file_is_relative_to_the_server_root(gateway, directive):
    line = '%s "redis://127.0.0.1:9/1" password=file:secret' % directive
    made = gateway(start=False, server=[*OURS, line])
    status, output = made.check_config()
    assert status != 0 and "file %s/secret:" % made.directory in output
    (made.directory / "secret").write_text("word\n", encoding="utf-8")
    status, output = made.check_config()
    assert status == 0, output


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
@pytest.mark.parametrize("line", ['MCPRateLimitStore "redis://127.0.0.1:9/1" password=file:%s',
                                  'MCPCacheStore "redis://127.0.0.1:9/1" password=file:%s',
                                  'MCPProxySessionStore "redis://127.0.0.1:9/1" password=file:%s',
                                  "MCPProxySessionKey file:%s"])
def test_a_file_of_secrets_that_is_none(gateway, stage, line, kind):
    path = stage.directory / "secret"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path = "/dev/zero" if kind == "device" else stage.directory
    status, output = gateway(start=False, server=[*OURS, line % path]).check_config()
    assert status != 0
    assert line.split()[0] in output and "%s" % path in output
    assert "no regular file" in output


def test_a_start_does_not_repeat_it(gateway):
    gw = gateway(start=False, server=[*OURS, "MCPCacheStore shm:2M", "MCPProxyHeartbeat 10s"])
    gw.start()
    # What is in the error log without being announced fails the test.
    assert gw.request("GET", "/nothing").status == 404
