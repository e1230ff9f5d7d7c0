"""What is noted at lines of a program while it runs, for the report."""

from __future__ import annotations

import atexit
import json
import linecache
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from unify._config import environment

_OWN = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "torch_npu", "unify", "importlib"))
_BETWEEN_WRITES = 0.2  # seconds


class Lines:
    """Counts what happens at which line. It is written into the report's folder, if there is one, at the end.

    And now and then, for a process that is killed.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind  # how the file's name ends
        self._written_at = 0.0
        self.counts: Counter[tuple[str, int, str]] = Counter()  # by file, line, what happens there
        atexit.register(self.write)

    def note(self, what: str, elsewhere: str | None = None) -> None:
        """Counts `what` at the line of the program that runs; `elsewhere` where no line of a program does.

        Empty: what stands there in the program is told.
        """
        frame: Any = sys._getframe(1)
        while frame is not None and any(part in frame.f_code.co_filename for part in _OWN):
            frame = frame.f_back
        if frame is not None:
            self.counts[frame.f_code.co_filename, frame.f_lineno, what] += 1
        elif elsewhere is not None:
            self.counts["", 0, elsewhere] += 1
        if time.monotonic() - self._written_at > _BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Writes what was noted so far."""
        self._written_at = time.monotonic()
        folder = environment().get("UNIFY_SIMULATED_REPORT")
        if not folder or not self.counts:
            return
        rows = [
            {"file": file, "line": line, "what": what or linecache.getline(file, line).strip(), "count": count}
            for (file, line, what), count in sorted(self.counts.items())
        ]
        path = Path(folder) / f"{os.getpid()}.{self._kind}"
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_text(json.dumps(rows))
        unfinished.replace(path)


def read(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What the processes of a program noted, put together."""
    total: dict[tuple[str, int, str], int] = {}
    for path in folder.glob(f"*.{kind}"):
        for one in json.loads(path.read_text(errors="replace")):
            key = one["file"], one["line"], one["what"]
            total[key] = total.get(key, 0) + one["count"]
    return [
        {"file": file, "line": line, "what": what, "count": count}
        for (file, line, what), count in sorted(total.items())
    ]
