"""This process, as the system sees it."""

from __future__ import annotations

from pathlib import Path


def peak_memory_bytes() -> int:
    """The most memory that this process ever had: its largest resident set, mapped files included."""
    # Not getrusage's ru_maxrss: it survives exec, so that a child of a large process reports its parent's (proc(5)).
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
