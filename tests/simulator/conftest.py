"""What tests of the simulated drivers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .driver import LIBRARY, Driver


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Two devices of 64 MiB, the first one's context current, and nothing left of another test."""
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is not built: make build")
    made = Driver(count=2)
    made.open()
    yield made
    for device in (0, 1):
        made.library.unify_simulator_clear(device)
        while made.live("retained", device):
            assert made.result("cuDevicePrimaryCtxRelease", device) == "CUDA_SUCCESS"
    made.result("cuCtxSetCurrent", 0)
