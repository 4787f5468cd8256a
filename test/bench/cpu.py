# SPDX-License-Identifier: Apache-2.0
"""What processes cost."""
import glob
import os


def cpu_seconds(pid):
    """What the children of a process have had of the processors, to the nanosecond."""
    total = 0
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat, encoding="ascii", errors="replace") as file:
                if int(file.read().rsplit(")", 1)[1].split()[1]) != pid:
                    continue
            for thread in glob.glob(os.path.dirname(stat) + "/task/*/schedstat"):
                with open(thread, encoding="ascii") as file:
                    total += int(file.read().split()[0])
        except OSError:
            continue
    return total / 1e9
