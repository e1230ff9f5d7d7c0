"""What a process says of itself."""

from __future__ import annotations

from .conftest import Run

_CHILD = "from unify._process import peak_memory_bytes; {work}; print(peak_memory_bytes())"
# Subprocess starts by vfork, after which ru_maxrss of the child begins at the parent's.
_LARGE_PARENT = "import subprocess, sys; held = b'x' * 600_000_000; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_the_most_memory_is_this_processes_and_not_its_parents(python: Run) -> None:
    little = int(python("-c", _LARGE_PARENT, _CHILD.format(work="pass")).stdout)
    much = int(python("-c", _LARGE_PARENT, _CHILD.format(work="held = b'x' * 90_000_000; del held")).stdout)
    assert 1e6 < little < 60e6
    assert 80e6 < much - little < 100e6
