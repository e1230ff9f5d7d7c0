"""Settings: the environment, defaults, overrides, and what a wrong value says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import unify
from unify._config import TABLE, settings, unknown_variables


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in TABLE.values():
        monkeypatch.delenv(setting.variable, raising=False)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cpu_threads", "3", 3),
        ("cpu_pin", "1", True),
        ("cpu_pin", "off", False),
        ("expandable_segments", "1", True),
        ("check_bounds", "yes", True),
        ("no_cache", "0", False),
        ("device", "cuda:1", "cuda:1"),
        ("layers", "validate, trace", ("validate", "trace")),
        ("dump", "", ()),
        ("backend_path", os.pathsep.join(["/a.so", "/b.so", ""]), ("/a.so", "/b.so")),
        ("dump_dir", "~/dumps", Path("~/dumps").expanduser()),
    ],
)
def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    monkeypatch.setenv(TABLE[name].variable, text)
    assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("variable", "text"), [("UNIFY_CPU_THREADS", "many"), ("UNIFY_CPU_THREADS", "-1"), ("UNIFY_CPU_PIN", "perhaps")]
)
def test_a_wrong_value_names_the_variable_and_the_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    name = next(name for name, setting in TABLE.items() if setting.variable == variable)
    with pytest.raises(unify.InvalidArgument, match=re.escape(f"{variable}={text!r}: expected ")):
        getattr(settings, name)


def test_the_cache_is_where_the_desktop_standard_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.cache_dir == tmp_path / "unify"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert settings.cache_dir == Path("~/.cache/unify").expanduser()


def test_an_override_wins_over_the_environment_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_CPU_THREADS", "2")
    with settings.override(cpu_threads=5):
        with settings.override(cpu_threads=6, device="toy"):
            assert (settings.cpu_threads, settings.device) == (6, "toy")
        assert (settings.cpu_threads, settings.device) == (5, "cpu")
    assert settings.cpu_threads == 2


def test_an_override_ends_when_its_block_raises() -> None:
    with pytest.raises(KeyError), settings.override(cpu_threads=5):
        raise KeyError
    assert settings.cpu_threads == 0


def test_a_misspelt_setting_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(AttributeError, match="cpu_threads"):
        _ = settings.cpu_thread
    with pytest.raises(AttributeError, match="cpu_thread"), settings.override(cpu_thread=1):
        pass


def test_a_variable_that_is_no_setting_is_told_with_the_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UNIFY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNIFY_CPU_THREADS", "1")
    assert unknown_variables() == []
    monkeypatch.setenv("UNIFY_CHECK_BOUND", "1")
    monkeypatch.setenv("UNIFY_ZZZ", "1")
    assert unknown_variables() == [
        "unknown setting UNIFY_CHECK_BOUND; did you mean UNIFY_CHECK_BOUNDS?", "unknown setting UNIFY_ZZZ",
    ]  # fmt: skip


def test_settings_are_few_and_each_is_explained() -> None:
    assert len(TABLE) <= 18
    for name, setting in TABLE.items():
        assert setting.variable in (f"UNIFY_{name.upper()}", name.upper()), "the second is another program's own"
        assert re.fullmatch(r"[A-Z].{10,80}\.", setting.meaning)
