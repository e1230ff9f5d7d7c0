"""The user's lines, as MLIR's texts name them: out of the locations of a module, ours or the vendor's."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ALIAS = re.compile(r"^(#loc\d*) = loc\((.*)\)$", re.MULTILINE)
_DIRECT = re.compile(r'"((?:[^"\\]|\\.)*)":(\d+):(\d+)')
_PART = re.compile(rf"{_DIRECT.pattern}|#loc\d*")  # of a location that names others


@dataclass(frozen=True, order=True)
class Place:
    """Where in a kernel's source. in_library: it is what a function of Triton's language does for that line."""

    file: str
    line: int
    column: int = 0
    in_library: bool = False


class Places:
    """The locations of one module's text by alias, `#loc7`."""

    def __init__(self, text: str) -> None:
        self._bodies = {found[1]: found[2] for found in _ALIAS.finditer(text)}
        self._found: dict[str, Place | None] = {}

    def of(self, body: str, depth: int = 0) -> Place | None:
        """The innermost place that a user wrote, of an alias or of what stands in loc(…); None where there is none."""
        if body in self._found:
            return self._found[body]
        found = self._read(body, depth)
        self._found[body] = found
        return found

    def _read(self, body: str, depth: int) -> Place | None:
        direct = _DIRECT.match(body)
        if direct is not None:
            return Place(direct[1], int(direct[2]), int(direct[3])) if direct[1].endswith(".py") else None
        if depth > 32:
            return None
        if body in self._bodies:
            return self.of(self._bodies[body], depth + 1)
        through_library = False
        for part in _PART.finditer(body):  # of a call the callee's comes first
            place = self.of(part[0], depth + 1)
            if place is None:
                continue
            if _is_library(place.file):
                through_library = True
                continue
            inside = through_library or place.in_library
            return Place(place.file, place.line, place.column, inside)
        return None


def with_users_places(text: str) -> str:
    """A module whose locations are the user's, where functions of Triton's language were inlined."""
    places = Places(text)

    def plain(found: re.Match[str]) -> str:
        place = places.of(found[1])
        if place is None or "callsite" not in found[2]:
            return found[0]
        return f'{found[1]} = loc("{place.file}":{place.line}:{place.column})'

    return _ALIAS.sub(plain, text)


def _is_library(file: str) -> bool:
    return "/triton/language/" in file
