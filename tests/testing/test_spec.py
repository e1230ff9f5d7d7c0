"""Specs: which cases their patterns mean, where they are found, and that the suite's kernels keep their word."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import unify as un
from unify.testing import Kernel, Spec, kernels, spec


@pytest.mark.parametrize(
    ("pattern", "case", "expected"),
    [
        ("copy::*", "copy::test_fills[int8]", True),
        ("copy::test_fills", "copy::test_fills[int8]", True),
        ("copy::test_fills", "copy::test_fills", True),
        ("copy::test_fills[int8]", "copy::test_fills[int8]", True),
        ("copy::test_fills[int8]", "copy::test_fills[int16]", False),
        ("copy::test_fills[int*]", "copy::test_fills[int16]", True),
        ("copy::test_fill", "copy::test_fills", False),
        ("*::test_fills", "copy::test_fills[1.5]", True),
        ("copy::test_fills[1.5]", "copy::test_fills[115]", False),
        ("graph::*", "copy::test_fills", False),
    ],
)
def test_a_pattern_means_cases_with_their_parameters_or_without(pattern: str, case: str, expected: bool) -> None:
    assert spec.matches(pattern, case) is expected


def test_a_backend_without_a_spec_has_no_exceptions() -> None:
    assert spec.find("no_such_backend") == Spec()


def test_a_spec_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_spec.py").write_text(
        "from unify.testing import Spec\nmine = Spec(unsupported={'copy::*': 'no copies'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert spec.find("toy", "my_spec:mine").unsupported == {"copy::*": "no copies"}
    sys.modules.pop("my_spec")


@pytest.mark.parametrize(
    ("named", "why"),
    [("no_such_module:spec", "ModuleNotFoundError"), ("unify.testing:nothing", "AttributeError"), ("sys:path", "list")],
)
def test_what_is_no_spec_says_why(named: str, why: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"{re.escape(named)}.*{why}"):
        spec.find("toy", named)


def test_the_cpu_has_every_kernel_that_triton_can_say() -> None:
    device = un.device("cpu")
    found = {name: spec.compiled(device, name) for name in spec.KERNELS}
    assert {name for name, kernel in found.items() if kernel is None} == {"block"}
    assert all(isinstance(kernel, Kernel) and kernel.image for kernel in found.values() if kernel is not None)
    assert found["numbers"].signature == "*i64, i8, i64, i16, i32, *fp64, fp32, fp64, i8"
    assert kernels.compiled(device, "fill") is found["fill"]
