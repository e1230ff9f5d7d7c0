"""What unify found on this machine: devices, what they are, versions, and why a backend is absent."""

from __future__ import annotations

import platform
from typing import Any

from . import __version__
from ._config import settings
from ._device import backends, devices

# What the answer to a bug report needs first.
_PACKAGES = ("numpy", "triton", "llvmlite", "gguf", "tokenizers", "torch")

__all__ = ["info"]


def info() -> dict[str, Any]:
    """Everything that `unify info --json` prints, as plain data.

    unify, python, platform: versions; packages: version or None; backends: name, version, library, devices, why (it
    cannot be used, else empty); devices: name, default, state, properties, capabilities, memory in bytes.
    """
    found = devices()
    return {
        "unify": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cache_dir": str(settings.cache_dir),
        "backends": [
            {
                "name": status.name,
                "version": status.version,
                "library": status.library,
                "devices": status.device_count,
                "why": status.why,
            }
            for status in backends()
        ],
        "devices": [_device_record(device, device.name == settings.device) for device in found],
    }


def _device_record(device: Any, is_default: bool) -> dict[str, Any]:
    free, total = device.memory_info()
    return {
        "name": device.name,
        "default": is_default,
        "state": device.state,
        "memory_free_bytes": free,
        "memory_total_bytes": total,
        "properties": dict(device.properties),
        "capabilities": dict(device.capabilities),
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # 10 ms that other users of `unify` need not pay

    try:
        return version(package)
    except PackageNotFoundError:
        return None
