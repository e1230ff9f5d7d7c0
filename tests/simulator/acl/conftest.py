"""What tests of the simulated ACL share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .driver import LIBRARY, Acl


@pytest.fixture
def acl() -> Iterator[Acl]:
    """Two devices of 64 MiB, the first one set, and nothing left of another test."""
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is not built: make build")
    made = Acl(count=2)
    made.aclrtSetDevice(0)
    yield made
    for device in (0, 1):
        made.library.unify_simulator_clear(device)
        made.result("aclrtDeviceTaskAbort", device, 0)
        if made.live("retained", device):
            made.aclrtResetDeviceForce(device)
