"""The pytest plugin: `pytest --pyargs unify.testing.conformance --unify-device NAME`. Loads nothing of unify itself."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("unify.testing.conformance", "unify.testing.arrays")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --unify-device, which the conformance suite reads."""
    parser.getgroup("unify").addoption(
        "--unify-device",  # others have a --device of their own
        action="append",
        default=None,
        metavar="NAME",
        help="device that unify's conformance suite runs on, e.g. cpu or cuda:0; may be given again. Default: all.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the suite's marker."""
    config.addinivalue_line(
        "markers",
        "needs(capability, support=...): skips on devices without this capability; support='native' also where it is "
        "emulated.",
    )
