# SPDX-License-Identifier: Apache-2.0
"""Scrapes of mcp-metrics, read as Prometheus would."""
import re
import shutil
import subprocess

PLACES = ["<Location /metrics>", "  SetHandler mcp-metrics", "</Location>",
          "<Location /status>", "  SetHandler mcp-status", "</Location>"]
# What interface.md promises where all three modules are loaded; kind by name.
CONTRACT = {
    "mcp_router_sse_connections": "gauge",
    "mcp_router_sse_connections_total": "counter",
    "mcp_router_sse_errors_total": "counter",
    "mcp_requests_total": "counter",
    "mcp_stream_seconds": "histogram",
    "mcp_disconnect_propagation_seconds": "histogram",
    "mcp_sessions": "gauge",
    "mcp_sessions_lost_total": "counter",
    "mcp_limit_decisions_total": "counter",
    "mcp_slots_in_use": "gauge",
    "mcp_cache_requests_total": "counter",
    "mcp_store_errors_total": "counter",
    "mcp_store_seconds": "histogram",
}
_LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-z]+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    def __init__(self, text):
        self.text, self.types, self.values = text, {}, {}
        open_family, seen = None, set()
        for line in text.splitlines():
            if line.startswith("# "):
                _, word, family, rest = line.split(" ", 3)
                if word == "HELP":
                    assert family not in seen, "HELP twice, or apart from its samples: " + family
                    open_family = family
                    seen.add(family)
                else:
                    assert word == "TYPE" and family == open_family
                    self.types[family] = rest
                continue
            match = _LINE.fullmatch(line)
            assert match, "no sample: %r" % line
            name, labels, value = match.groups()
            assert re.sub("_(bucket|sum|count)$", "", name) == open_family or name == open_family
            key = name, tuple(sorted(_LABEL.findall(labels or "")))
            assert key not in self.values, "twice: " + line
            self.values[key] = float(value)

    def __call__(self, name, **labels):
        """One sample; 0 if there is none, as a counter that nobody has touched."""
        return self.values.get((name, tuple(sorted(labels.items()))), 0)

    def of(self, name):
        """{labels: value} of one name."""
        return {labels: value for (n, labels), value in self.values.items() if n == name}

    def total(self, name):
        return sum(self.of(name).values())


def scrape(gateway, path="/metrics"):
    answer = gateway.request("GET", path)
    assert answer.status == 200, answer.body
    assert answer.header("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.body.decode())


def promtool():
    return shutil.which("promtool")


def lint(text):
    """What promtool says against it; empty: nothing."""
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True,
                          text=True, check=False)
    return done.stdout + done.stderr if done.returncode or done.stderr else ""
