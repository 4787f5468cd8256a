# SPDX-License-Identifier: Apache-2.0
"""What /proc tells about processes."""
import os
import re


def _stat(pid):
    with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[3])  # state, parent, session


def _select(wanted):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent, session = _stat(int(name))
            except (OSError, ValueError, IndexError):
                continue
            if state != "Z" and wanted(parent, session):
                found.append(int(name))
    return sorted(found)


def children(pid):
    return _select(lambda parent, session: parent == pid)


def of_session(session_id):
    return _select(lambda parent, session: session == session_id)


def threads(pid):
    with open("/proc/%d/status" % pid, encoding="utf-8") as file:
        return int(re.search(r"^Threads:\s+(\d+)", file.read(), re.M)[1])


def is_at_rest(pid):
    """Whether none of its threads runs or is about to; one that has ended is at rest."""
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return True
    for task in tasks:
        try:
            with open("/proc/%d/task/%s/stat" % (pid, task), encoding="utf-8",
                      errors="replace") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state in "RD":
            return False
    return True


def descriptors(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def pss_kib(pid):
    """Proportional set size: private memory plus this process's share of what is shared."""
    with open("/proc/%d/smaps_rollup" % pid, encoding="utf-8") as file:
        return int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M)[1])


def connections(port):
    """How many TCP connections at that local port some process still has open."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    listening = "0A"
    return sum(
        1
        for row in rows
        if int(row[1].split(":")[1], 16) == port and row[3] != listening and row[9] != "0"
    )


def cpu_ticks(pid):
    """CPU time used so far, in clock ticks."""
    with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
