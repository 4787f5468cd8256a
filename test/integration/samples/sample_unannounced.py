# SPDX-License-Identifier: Apache-2.0
"""Must fail: httpd logs that nobody listens, and the test does not announce it."""
from harness.backend import Nobody


def test_provokes_an_error_line_without_saying_so(gateway, keep):
    gw = gateway(keep(Nobody()), mcp=False, single=True)
    assert gw.request("GET", "/mcp").status == 503
