# SPDX-License-Identifier: Apache-2.0
"""Must fail: a line is announced and does not come."""
from harness.mcpserver import McpServer


def test_announces_a_line_that_does_not_come(gateway, keep):
    gw = gateway(keep(McpServer(era="stateless")), mcp=False, single=True)
    gw.expect_log("AH01114")
    assert gw.request("OPTIONS", "/mcp").status == 200
