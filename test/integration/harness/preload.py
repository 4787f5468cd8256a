# SPDX-License-Identifier: Apache-2.0
"""Libraries of the tests' own that are loaded ahead of a program's."""
import os
import pathlib
import subprocess


def library(name, folder, flags=()):
    """harness/NAME.c as a library in that folder; its path."""
    made = pathlib.Path(folder) / (name + ".so")
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-O2", "-o", made, *flags,
                    pathlib.Path(__file__).with_name(name + ".c")], check=True)
    return made
