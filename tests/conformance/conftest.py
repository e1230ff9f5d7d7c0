"""The conformance suite on every backend of this machine, and on two more: the toy in plain C, whole and plain."""

from __future__ import annotations

import tempfile
from pathlib import Path

from unify._device import add_backend
from unify.testing.backends import compile_backend
from unify.testing.conformance.fixtures import *

_folder = tempfile.TemporaryDirectory(prefix="unify-toy-")
_source = Path(__file__).parents[1] / "plugin" / "toy.c"
for _name, _defines in (("toy", []), ("plain", ["TOY_PLAIN", 'TOY_NAME="plain"', "TOY_DLPACK=14"])):
    _status = add_backend(str(compile_backend(_source, Path(_folder.name, f"{_name}.so"), _defines)))
    assert _status.is_usable, _status.why
