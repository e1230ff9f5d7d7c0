"""A line on standard error about what takes long, so that nobody waits for a program that says nothing."""

from __future__ import annotations

import sys
import threading
from types import TracebackType


class Notice:
    """`with Notice("…"):` writes the line when the block has not ended, and nobody called `cancel`, after a while."""

    def __init__(self, text: str, after_s: float = 5.0) -> None:
        self._text = text
        self._timer = threading.Timer(after_s, self._write)
        self._timer.daemon = True
        self.was_written = False

    def _write(self) -> None:
        self.was_written = True
        sys.stderr.write(f"{self._text}\n")
        sys.stderr.flush()

    def cancel(self) -> None:
        """Nothing is written from now on."""
        self._timer.cancel()

    def __enter__(self) -> Notice:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
