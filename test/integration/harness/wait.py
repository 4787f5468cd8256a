# SPDX-License-Identifier: Apache-2.0
"""Waiting: for a condition, with a deadline. The only place where the tests sleep.

MCP_PATIENCE multiplies every deadline (sanitizer builds and valgrind need it).
"""
import os
import time

PATIENCE = float(os.environ.get("MCP_PATIENCE", "1"))
DEADLINE = 15.0 * PATIENCE
FULL = bool(os.environ.get("MCP_FULL"))


def wait_until(condition, what="a condition", timeout=None):
    """Poll until condition() is true, and return that; AssertionError at the deadline."""
    end = time.monotonic() + (DEADLINE if timeout is None else timeout)
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("waited in vain for " + what)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def stays(condition, seconds, what="a condition"):
    """For what must not happen: condition() has to hold all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), "did not stay: " + what
        time.sleep(0.01)


def settles(value, seconds=0.7, timeout=None):
    """Poll value() until it has not changed for that long; return it."""
    end = time.monotonic() + (DEADLINE if timeout is None else timeout)
    last, since = value(), time.monotonic()
    while time.monotonic() - since < seconds:
        if time.monotonic() > end:
            raise AssertionError("never settled, last at %r" % (last,))
        time.sleep(0.02)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
    return last
