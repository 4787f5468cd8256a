# SPDX-License-Identifier: Apache-2.0
"""The benchmark's driver: rounds, medians, and the table. What each row means: README here.

The contenders take turns (A B C D, A B C D, ...), since the machine's speed drifts more between
two minutes than the contenders differ; a ratio compares medians over the rounds.
"""
import argparse
import json
import os
import statistics
import sys
import time

from contenders import Contender, descendants
from load import between

QUICK = os.environ.get("QUICK") == "1"
STREAMS = int(os.environ.get("STREAMS", 500 if QUICK else 5000))
ROUNDS = int(os.environ.get("ROUNDS", 1 if QUICK else 3))
BUDGET = int(os.environ.get("BUDGET", 360))  # seconds; no round is begun that would not fit
SESSIONS = int(os.environ.get("SESSIONS", 1))
DELAY_STREAMS = min(1000, STREAMS)
DELAY_MS = 1000 if QUICK else 5000
CALL_MS = 500 if QUICK else 2500
FIRST = 50 if QUICK else 200
FIRST_BUDGET_MS = 3000
IDLE_EVERY = 10000  # ms between the events of an idle stream
GONE_MS = 12000     # longer than that: whoever looks only at the next event is told, too

# row: label, key, unit, opponent, must, aim, digits. A limit is a ratio to the opponent;
# calls are better when higher, everything else when lower.
ROWS = (
    ("idle memory per stream", "mem", "kB", "nginx", 2.5, 1.0, 1),
    ("threads, no streams", "threads0", "", None, None, None, 0),
    ("threads, all streams open", "threads", "", None, None, None, 0),
    ("first event p50, all open", "first", "ms", "nginx", 2.0, 1.0, 3),
    ("event delay p50", "delay50", "ms", "nginx", 1.25, 1.0, 3),
    ("event delay p99", "delay99", "ms", "nginx", 1.25, 1.0, 3),
    ("CPU per 100,000 events", "cpu", "s", "nginx", 1.7, 1.2, 2),
    ("client gone, told p50", "gone50", "ms", "nginx", 1.5, 1.0, 2),
    ("client gone, told max", "gonemax", "ms", "nginx", 1.5, 1.0, 2),
    ("tools/call a second", "calls", "", "mod_proxy_http", 1.0, 1.3, 0),
    ("CPU per 100,000 calls", "callcpu", "s", None, None, None, 2),
)
HIGHER_IS_BETTER = {"calls"}


class Bench:
    def __init__(self, args):
        self.args = args
        self.load = args.load
        self.results = {}
        self.notes = []
        self.contenders = [Contender("nginx", "nginx", args.work, STREAMS),
                           Contender("haproxy", "haproxy", args.work, STREAMS),
                           Contender("mod_proxy_http", "http", args.work, STREAMS)]
        self.calls_only = []
        if os.path.exists(args.module):
            self.contenders.append(
                Contender("mod_mcp_proxy", "mcp", args.work, STREAMS, args.module))
            self.calls_only.append(
                Contender("mcp/64", "mcp", args.work, STREAMS, args.module, threads=64))
        else:
            self.notes.append(f"mod_mcp_proxy left out: {args.module} is not built")
        only = args.only.split(",") if args.only else None
        if only and "mcp/sealed" in only:
            self.calls_only.append(
                Contender("mcp/sealed", "mcp", args.work, STREAMS, args.module, sealed=True))
        if only:
            self.contenders = [c for c in self.contenders if c.name in only]
            self.calls_only = [c for c in self.calls_only if c.name in only]

    def record(self, contender, **values):
        for key, value in values.items():
            self.results.setdefault(contender.name, {}).setdefault(key, []).append(value)

    def note(self, contender, text):
        self.notes.append(f"{contender.name}: {text}")

    def with_contender(self, contender, measure, for_calls):
        """Run measure(contender, tool) against a fresh backend and a fresh proxy."""
        log = ""
        try:
            with between(self.load, "drive", self.args.work, contender, for_calls) as tool:
                try:
                    measure(contender, tool)
                finally:
                    # What is logged once the clients and the backend are gone says nothing.
                    log = contender.log()
        except RuntimeError as e:
            self.note(contender, str(e))
        lines = [x for x in log.splitlines() if ":notice]" not in x]
        if lines:
            self.note(contender, f"{len(lines)} lines in its error log, the first: {lines[0]}")

    def measure_streams(self, contender, tool):
        self.warm_up(tool)
        before, threads0 = contender.memory(), contender.thread_count()
        opened = tool("open", STREAMS, IDLE_EVERY, SESSIONS)
        if opened["failed"] or opened["backend"] != STREAMS:
            self.note(contender, f"opened {opened['held']:.0f} of {STREAMS} streams")
        tool("delay", 1500)
        self.record(contender, mem=(contender.memory() - before) / STREAMS / 1000,
                    threads0=threads0, threads=contender.thread_count())
        self.hold(contender, tool, "delay")
        first = tool("first", FIRST, FIRST_BUDGET_MS)
        if first["n"]:
            self.record(contender, first=first["p50"] / 1000)
        gone = tool("gone", GONE_MS)
        if gone["told"] != gone["closed"]:
            self.note(contender, f"the backend was told of {gone['told']:.0f} of "
                                 f"{gone['closed']:.0f} streams in {GONE_MS} ms")
        self.record(contender, gone50=gone["p50"] / 1000, gonemax=gone["max"] / 1000)

    def measure_events(self, contender, tool):
        tool("open", DELAY_STREAMS, 200, SESSIONS)
        tool("delay", 500)
        self.hold(contender, tool, "delay")
        cpu = contender.cpu()
        delay = tool("delay", DELAY_MS)
        cpu = contender.cpu() - cpu
        if delay["lost"] or delay["broken"]:
            self.note(contender, f"{delay['lost']:.0f} events out of order or lost, "
                                 f"{delay['broken']:.0f} streams broken")
        self.record(contender, delay50=delay["p50"] / 1000, delay99=delay["p99"] / 1000,
                    cpu=cpu / delay["events"] * 100000)

    def measure_calls(self, contender, tool):
        tool("call", 32, 300)
        self.hold(contender, tool, "call", 32)
        cpu = contender.cpu()
        call = tool("call", 32, CALL_MS)
        cpu = contender.cpu() - cpu
        if call["errors"]:
            self.note(contender, f"{call['errors']:.0f} calls failed")
        self.record(contender, calls=call["calls"] / call["ms"] * 1000,
                    callcpu=cpu / max(call["calls"], 1) * 100000)

    @staticmethod
    def warm_up(tool):
        """Let the proxy allocate what it allocates once."""
        tool("call", 16, 200)
        tool("open", 64, 100, SESSIONS)
        tool("gone", 1000)

    def run(self):
        start = time.monotonic()
        for number in range(ROUNDS):
            begun = time.monotonic()
            for phase, measure in (("streams", self.measure_streams),
                                   ("events", self.measure_events),
                                   ("calls", self.measure_calls)):
                if phase not in self.args.rows.split(","):
                    continue
                for contender in self.contenders + (self.calls_only if phase == "calls" else []):
                    print(f"round {number + 1}/{ROUNDS}: {phase}, {contender.name}",
                          file=sys.stderr)
                    self.with_contender(contender, measure, phase == "calls")
            now = time.monotonic()
            if number + 1 < ROUNDS and now - start + (now - begun) > BUDGET:
                self.notes.append(f"stopped after {number + 1} rounds: the next one would not "
                                  f"end within {BUDGET} s")
                break
        self.notes.append(f"took {time.monotonic() - start:.0f} s")

    def hold(self, contender, tool, *command):
        """Keep a load up for a profiler."""
        if self.args.hold:
            pids = " ".join(str(p) for p in descendants(contender.proc.pid))
            print(f"{contender.name}: processes {pids}, for {self.args.hold} s", file=sys.stderr)
            tool(*command, self.args.hold * 1000)

    def median(self, name, key):
        values = self.results.get(name, {}).get(key)
        return statistics.median(values) if values else None


def verdict(key, ratio, limit):
    if key in HIGHER_IS_BETTER:
        return "met" if ratio >= limit else "missed"
    return "met" if ratio <= limit else "missed"


def show(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def table(bench):
    names = [c.name for c in bench.contenders + bench.calls_only]
    print(f"\n{STREAMS:,} streams, medians of {ROUNDS} round(s), {os.cpu_count()} CPUs\n")
    print(f"{'':27}{'':3}" + "".join(f"{n:>16}" for n in names))
    for label, key, unit, _, _, _, digits in ROWS:
        cells = [show(bench.median(n, key), digits) for n in names]
        print(f"{label:27}{unit:3}" + "".join(f"{c:>16}" for c in cells))


def ratios(bench):
    """The table of the targets; returns whether every must is met."""
    good = True
    print(f"\n{'mod_mcp_proxy':27}{'against':>16}{'ratio':>8}{'rounds':>14}{'must':>7}"
          f"{'':8}{'aim':>6}")
    for label, key, _, opponent, must, aim, _ in ROWS:
        ours, theirs = bench.median("mod_mcp_proxy", key), bench.median(opponent, key)
        if opponent is None or not ours or not theirs:
            continue
        ratio = ours / theirs
        pairs = [a / b for a, b in zip(bench.results["mod_mcp_proxy"][key],
                                       bench.results[opponent][key]) if b]
        spread = f"{min(pairs):.2f}..{max(pairs):.2f}"
        good = good and verdict(key, ratio, must) == "met"
        print(f"{label:27}{opponent:>16}{ratio:8.2f}{spread:>14}{must:7.2f} "
              f"{verdict(key, ratio, must):7}{aim:6.2f} {verdict(key, ratio, aim)}")
    before, after = (bench.median("mod_mcp_proxy", k) for k in ("threads0", "threads"))
    if after:
        same = after == before
        good = good and same
        print(f"{'threads':27}{'itself, idle':>16}{after / before:8.2f}{'':14}{'same':>7} "
              f"{'met' if same else 'missed'}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", required=True, help="the mcpload program")
    parser.add_argument("--module", required=True, help="mod_mcp_proxy.so")
    parser.add_argument("--work", required=True, help="a folder for everything that is written")
    parser.add_argument("--only", help="names of contenders, comma-separated")
    parser.add_argument("--rows", default="streams,events,calls", help="which parts to run")
    parser.add_argument("--json", help="also write every round's numbers to this file")
    parser.add_argument("--hold", type=int, default=0, metavar="SECONDS",
                        help="before measuring, keep the load up for a profiler")
    args = parser.parse_args()
    bench = Bench(args)
    try:
        bench.run()
    except KeyboardInterrupt:
        return 130
    table(bench)
    good = ratios(bench)
    for text in dict.fromkeys(bench.notes):
        print(f"note: {text}")
    if args.json:
        with open(args.json, "w", encoding="ascii") as f:
            json.dump(bench.results, f, indent=1)
    return 0 if good or QUICK else 2


if __name__ == "__main__":
    sys.exit(main())
