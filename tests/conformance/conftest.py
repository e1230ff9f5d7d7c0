"""The conformance suite on the CPU, on simulated chips of CUDA and Ascend, and on the toy in plain C, whole and plain.

On Ascend it needs the vendor's compilers: `unify toolchain install ascend`, which `make test` does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from unify._device import add_backend
from unify.compiler import toolchain
from unify.simulator import from_text
from unify.testing.backends import compile_backend
from unify.testing.conformance.fixtures import *

# Memory is taken when it is written.
SIMULATED = "cuda:90x2,6g" + (";ascend:910B3x2,6g" if toolchain.is_installed("ascend") else "")
from_text(SIMULATED)
_folder = tempfile.TemporaryDirectory(prefix="unify-toy-")
_source = Path(__file__).parents[1] / "plugin" / "toy.c"
for _name, _defines in (("toy", ["TOY_DLPACK=15"]), ("plain", ["TOY_PLAIN", 'TOY_NAME="plain"', "TOY_DLPACK=14"])):
    _status = add_backend(str(compile_backend(_source, Path(_folder.name, f"{_name}.so"), _defines)))
    assert _status.is_usable, _status.why


@pytest.fixture(autouse=True)
def simulated_in_children_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a case starts find the same devices."""
    monkeypatch.setenv("UNIFY_SIMULATE", SIMULATED)
