# SPDX-License-Identifier: Apache-2.0
"""Must fail: httpd is killed and its children stay behind."""
import os
import signal


def test_leaves_processes_behind(gateway):
    gw = gateway()
    os.kill(gw.process.pid, signal.SIGKILL)
    gw.process.wait(10)
