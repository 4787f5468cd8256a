# SPDX-License-Identifier: Apache-2.0
"""MCPProxyRescue: what goes wrong in a rescue harms nobody else, and no more than it must."""
from harness.client import Mcp, call

from test_rescue import _gateway, opened, opening, two  # noqa: F401

STATUS = ["<Location /status>", "  SetHandler mcp-status", "</Location>"]


def test_a_request_that_fits_no_member_puts_none_in_error(gateway, server):
    """It names two sessions of one server: no other one can have both."""
    gw, home, other, client = two(gateway, server, member="retry=600", server=STATUS)
    second = opened(gw)
    while len(home.sessions) < 2:
        second = opened(gw)
    home.kill()
    stray = Mcp(gw, path="/mcp?session_id=" + second.session)
    stray.session = client.session
    stray.post(call("whoami", 1))
    states = {m["url"]: m["state"] for m in gw.request("GET", "/status?json").json()["members"]}
    assert states == {home.url: "error", other.url: "ok"}
    assert client.where() == other.name


def test_head_opens_nothing(gateway, server):
    gw, home, other, client = two(gateway, server)
    home.sessions.clear()
    assert gw.request("HEAD", "/mcp", client.headers()).status == 404
    assert not opening(other) and len(opening(home)) == 1
