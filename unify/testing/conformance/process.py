"""Programs on the device under test in processes of their own, to see how they fork and end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import unify as un
from unify._config import environment
from unify._device import backends

LIMIT_S = 120

_START = """
import os, signal, sys, threading, time
import unify as un
if sys.argv[2] != "built in":
    un.add_backend(sys.argv[2])  # may be known by an entry point too
device = un.device(sys.argv[1])
"""


def run(device: un.Device, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that has the device as `device`. Raises TimeoutExpired if it hangs."""
    library = next(status.library for status in backends() if status.name == device.kind)
    variables = environment()
    root = str(Path(un.__file__).parents[1])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH", "")]))
    program = _START + textwrap.dedent(code)
    # A fork of a process with threads is what these programs are about; Python 3.12 warns of it.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, device.name, library]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=LIMIT_S)
