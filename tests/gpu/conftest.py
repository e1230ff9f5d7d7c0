"""What the tests on an Nvidia GPU share: `make gpu-test`. UNIFY_SIMULATE=cuda:90 runs them on a simulated one."""

from __future__ import annotations

from typing import Any

import pytest

import unify as un


@pytest.fixture(scope="session")
def gpu() -> un.Device:
    try:
        return un.device("cuda:0")
    except un.errors.Error as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def torch() -> Any:
    """Torch, which computes what is expected: on the GPU if it can, else on the CPU."""
    return pytest.importorskip("torch", exc_type=ImportError)
