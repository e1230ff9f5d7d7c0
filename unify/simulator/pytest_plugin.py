"""The pytest plugin: `pytest --ascend-simulated=910B3x2,64g` runs tests that use torch_npu, on simulated chips.

pytest starts again, as torch and torch_npu find their libraries by what a process begins with. Nothing else of unify is
loaded where the option is absent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

from unify._config import environment as inherited

_OPTION = "--ascend-simulated"
_MARK = "UNIFY_SIMULATED_BY"  # whoever made the environment that a process is in


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.getgroup("unify").addoption(
        _OPTION,
        nargs="?",
        const="910B3",
        metavar="910B3x2,64g",
        help="run on simulated Ascend chips: of which kind, how many, and with how much memory each (default: one "
        "910B3). Before it: `unify simulate ascend --install`.",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Starts pytest again before it takes the output and loads anything of the user's; workers of xdist are there."""
    text = early_config.known_args_namespace.ascend_simulated
    if text is not None and inherited().get(_MARK) != "pytest":
        _start_again(text)
    yield


def _start_again(text: str) -> None:
    from unify.errors import Error
    from unify.simulator import environment

    try:
        chips = environment.read_chips(text)
        variables = environment.find(sys.executable).variables(chips)
    except Error as error:
        hint = f" Say {_OPTION}=910B3 before paths." if os.path.exists(text) else ""
        raise pytest.UsageError(f"{_OPTION}: {error}{hint}") from None
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 - this Python, as it was started
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**variables, _MARK: "pytest"}
    )


def pytest_report_header() -> list[str]:
    """Says which chips the tests see."""
    variables = inherited()
    return [f"simulated: {variables['UNIFY_SIMULATE']}"] if variables.get(_MARK) == "pytest" else []
