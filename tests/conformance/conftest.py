"""The conformance suite on every backend of this machine, and on a second one: the toy in plain C."""

from __future__ import annotations

import tempfile
from pathlib import Path

from unify._device import add_backend
from unify.testing.backends import compile_backend
from unify.testing.conformance.fixtures import *

_folder = tempfile.TemporaryDirectory(prefix="unify-toy-")
_status = add_backend(
    str(compile_backend(Path(__file__).parents[1] / "plugin" / "toy.c", Path(_folder.name, "toy.so")))
)
assert _status.is_usable, _status.why
