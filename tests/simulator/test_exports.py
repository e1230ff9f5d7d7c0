"""What a simulated driver exports, against what binutils says of it."""

from __future__ import annotations

import re
import subprocess

import pytest

from unify.simulator import ascend, cuda
from unify.simulator.exports import calls_of


@pytest.mark.parametrize("kind", [ascend, cuda])
def test_calls_are_the_vendor_s_functions_without_versions(kind: object) -> None:
    library = str(kind.library_path())  # type: ignore[attr-defined]
    listed = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    functions = {line.split()[2] for line in listed.splitlines() if " T " in line}
    expected = {re.sub(r"_v\d+$", "", name) for name in functions if not name.startswith("unify_")}
    assert calls_of(library) == expected
    assert len(expected) > 60
