"""The exception tree: as drawn, as raised, and across process borders."""

from __future__ import annotations

import builtins
import pickle
import re
import traceback

import numpy as np
import pytest

import unify
from unify import _errors

from .conftest import Run

ALL = [getattr(_errors, name) for name in _errors.__all__]
FIELDS = ("code", "device", "stream", "kernel", "native_code", "native_name", "advice", "recent")


def drawn_tree() -> dict[str, set[str]]:
    """Each class that the module's docstring draws, and its bases."""
    bases: dict[str, set[str]] = {}
    path: list[str] = []
    for line in (_errors.__doc__ or "").splitlines():
        match = re.match(r"(?: {4})?(?P<branch>[│├└─ ]*)(?P<name>\w+)(?: \((?P<builtin>\w+)\))?$", line)
        if match:
            depth = len(match["branch"]) // 4
            path = [*path[:depth], match["name"]]
            bases[match["name"]] = {base for base in (*path[-2:-1], match["builtin"]) if base}
    return bases


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {cls.__name__: {base.__name__ for base in cls.__bases__} for cls in ALL}
    assert drawn_tree() == real


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_is_caught_as_unify_error_and_as_its_builtin(cls: type[unify.Error]) -> None:
    assert issubclass(cls, unify.Error)
    builtin = {base.__name__ for base in cls.__mro__} & set(vars(builtins)) - {"object", "BaseException", "Exception"}
    assert builtin, "an error of unify is also one of Python's own, so that general code can catch it"


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_an_error_keeps_message_and_fields_when_pickled(cls: type[unify.Error]) -> None:
    fields = dict.fromkeys(FIELDS, "x") | {"native_code": 700}
    error = cls("attention: q is [1, 6], k is [1, 4].", **fields)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == "attention: q is [1, 6], k is [1, 4]."
    assert {name: getattr(again, name) for name in fields} == fields


def test_fields_that_were_not_given_are_none() -> None:
    error = unify.OutOfMemory("cuda:0: 512 MiB asked, 301 MiB free.")
    assert [getattr(error, name) for name in FIELDS] == [None] * len(FIELDS)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="ShapeError has no field 'devise'"):
        unify.ShapeError("x", devise="cpu")


def test_an_os_error_has_the_message_and_not_a_tuple() -> None:
    assert str(unify.CacheError("cache: /nope is read-only.")) == "cache: /nope is read-only."


def test_a_traceback_names_the_error_as_users_do() -> None:
    shown = traceback.format_exception_only(unify.ShapeError("heads must be a multiple of kv_heads."))
    assert shown == ["unify.ShapeError: heads must be a multiple of kv_heads.\n"]


@pytest.mark.parametrize(
    ("module", "slip", "meant"), [("unify", "syncronize", "synchronize"), ("unify.ops", "rmsnorm", "rms_norm")]
)
def test_a_traceback_suggests_the_name_that_was_meant(python: Run, module: str, slip: str, meant: str) -> None:
    finished = python("-c", f"import {module}; {module}.{slip}")
    assert f"has no attribute '{slip}'. Did you mean: '{meant}'?" in finished.stderr


def test_a_value_is_described_by_its_type_and_a_short_repr() -> None:
    assert _errors.described(3) == "an int, 3"
    assert _errors.described(list(range(99))) == "a list, [0, 1, 2, 3, 4, 5, ...]"
    assert _errors.described(np.ones((2, 3))) == "a numpy.ndarray of float64 with shape [2, 3]"


@pytest.mark.parametrize("name", _errors.__all__)
def test_each_error_stands_in_unify_and_in_unify_errors(name: str) -> None:
    assert getattr(unify, name) is getattr(unify.errors, name) is getattr(_errors, name)
