# SPDX-License-Identifier: Apache-2.0
"""The error log as an oracle: what a test did not announce must not be in it.

A line is bad at level warn and above, or when it reports a crash, or when it has not httpd's form
(a sanitizer's report, a message of the C library). A test announces what it provokes by tag.
"""
import re

_LINE = re.compile(
    r"^\[[^\]]*\] \[(?P<module>[^:\]]*):(?P<level>\w+)\] \[pid (?P<pid>\d+)[^\]]*\] "
    r"(?P<text>.*)$"
)
_TAG = re.compile(r"\b(?:MCP\d{4}|AH\d{5})\b")
_BAD_LEVELS = ("emerg", "alert", "crit", "error", "warn")
# "child pid N exit signal ...", with and without a core dump: logged as notices.
_CRASHES = ("AH00050", "AH00051", "AH00052")
# httpd says that children were killed one after the other: a test did it, or a crash is told of too.
_ECHO = "AH10392"


class LogLine:
    def __init__(self, raw):
        match = _LINE.match(raw)
        self.raw = raw
        self.module = match["module"] if match else ""
        self.level = match["level"] if match else "unknown"
        self.pid = int(match["pid"]) if match else 0
        self.text = match["text"] if match else raw
        tag = _TAG.search(self.text)
        self.tag = tag[0] if tag else ""

    @property
    def is_bad(self):
        if self.tag == _ECHO:
            return False
        return self.level in _BAD_LEVELS or self.level == "unknown" or self.tag in _CRASHES


class Expectation:
    def __init__(self, tag, contains="", optional=False):
        self.tag = tag
        self.contains = contains
        self.optional = optional
        self.seen = 0

    def covers(self, line):
        """tag is a tag, or a pattern for some."""
        return bool(re.fullmatch(self.tag, line.tag)) and self.contains.lower() in line.text.lower()

    def __str__(self):
        return self.tag + (" with %r" % self.contains if self.contains else "")


def parse(text):
    return [LogLine(raw) for raw in text.splitlines() if raw.strip()]


def judge(lines, expectations):
    """What is wrong with a log, as a list of texts; empty if nothing is."""
    problems = []
    for line in lines:
        covering = [e for e in expectations if e.covers(line)]
        for expectation in covering:
            expectation.seen += 1
        if line.is_bad and not covering:
            problems.append("unannounced in the error log: " + line.raw)
    problems += [
        "announced, but not in the error log: %s" % e
        for e in expectations
        if not e.seen and not e.optional
    ]
    return problems
