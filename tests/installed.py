"""What a test may need to be installed, as marks that skip it."""

from __future__ import annotations

import pytest

from unify.compiler import toolchain

NEEDS_ASCEND = pytest.mark.skipif(
    not toolchain.is_installed("ascend"), reason="needs the vendor's compilers: unify toolchain install ascend"
)
