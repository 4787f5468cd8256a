# SPDX-License-Identifier: Apache-2.0
"""What calls cost while a crowd of clients comes back at once: see README here.

Each contender is started fresh, and the contenders take turns; the table has medians.
"""
import argparse
import os
import statistics
import sys

from contenders import Contender
from load import between

CLIENTS = int(os.environ.get("CLIENTS", 5000))
CALLERS = int(os.environ.get("CALLERS", 8))
ROUNDS = int(os.environ.get("ROUNDS", 3))
CALM_MS = int(os.environ.get("CALM_MS", 1500))
LIMIT_MS = int(os.environ.get("LIMIT_MS", 30000))

ROWS = (
    ("calm: call p50, ms", "calm50", 3),
    ("calm: call p99, ms", "calm99", 3),
    ("storm: call p50, ms", "storm50", 3),
    ("storm: call p99, ms", "storm99", 3),
    ("storm: slowest call, ms", "stormmax", 1),
    ("storm: calls a second", "rate", 0),
    ("storm: calls that failed", "errors", 0),
    ("all clients ready after, s", "took", 2),
    ("clients ready", "ready", 0),
    ("connections tried again", "again", 0),
)


def measure(tool):
    calm = tool("calm", CALLERS, CALM_MS)
    storm = tool("storm", CLIENTS, CALLERS, LIMIT_MS)
    return {
        "calm50": calm["p50"] / 1000, "calm99": calm["p99"] / 1000,
        "storm50": storm["p50"] / 1000, "storm99": storm["p99"] / 1000,
        "stormmax": storm["max"] / 1000, "rate": storm["calls"] * 1000 / storm["ms"],
        "errors": storm["errors"], "took": storm["ms"] / 1000, "ready": storm["ready"],
        "again": storm["again"],
    }


def run(args, contender):
    with between(args.load, "storm", args.work, contender) as tool:
        return measure(tool)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", required=True)
    parser.add_argument("--module", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args()
    contenders = [Contender("nginx", "nginx", args.work, 2 * CLIENTS),
                  Contender("mod_proxy_http", "http", args.work, CLIENTS),
                  Contender("mod_mcp_proxy", "mcp", args.work, 2 * CLIENTS, args.module)]
    if args.only:
        contenders = [c for c in contenders if c.name in args.only.split(",")]
    seen = {c.name: [] for c in contenders}
    for _ in range(ROUNDS):
        for contender in contenders:
            try:
                seen[contender.name].append(run(args, contender))
            except RuntimeError as error:
                print("%s: %s" % (contender.name, error), file=sys.stderr)
    print("%d clients come at once; %d connections with calls; medians of %d rounds"
          % (CLIENTS, CALLERS, ROUNDS))
    print("%-28s" % "" + "".join("%16s" % c.name for c in contenders))
    for label, key, digits in ROWS:
        cells = (statistics.median(r[key] for r in seen[c.name]) if seen[c.name] else float("nan")
                 for c in contenders)
        print("%-28s" % label + "".join("%16.*f" % (digits, cell) for cell in cells))


if __name__ == "__main__":
    main()
