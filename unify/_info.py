"""What unify found on this machine: devices, what they are, versions, and why a backend is absent."""

from __future__ import annotations

import os
import platform
from typing import Any

from . import __version__, _core
from ._config import settings, unknown_variables
from ._device import Device, backends, default_device, device as open_device
from ._errors import Error

# What the answer to a bug report needs first.
_PACKAGES = ("numpy", "triton", "llvmlite", "gguf", "tokenizers", "torch")

__all__ = ["info"]


def info() -> dict[str, Any]:
    """Everything that `unify info --json` prints, as plain data.

    unify, python, platform: versions; packages: version or None; warnings: sentences about what is set; backends: name,
    version, library, devices, why (it cannot be used, else empty); devices: name, default, state ("healthy", "faulted",
    "gone", or "not opened"), why (it is not healthy, else empty), properties, capabilities, memory in bytes, which are
    empty and None where the device does not tell; toolchains: vendors' compilers, name, about, version, folder,
    is_installed, damage (what of it is not as it was installed, else empty); default_device: what is meant when none is
    named, why (it cannot be used, else empty).
    """
    found = backends()
    default, why_not = _default()
    return {
        "unify": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cache_dir": str(settings.cache_dir),
        "warnings": [*unknown_variables(), *_cache_warning()],
        "backends": [
            {
                "name": status.name,
                "version": status.version,
                "library": status.library,
                "devices": status.device_count,
                "why": status.why,
            }
            for status in found
        ],
        "devices": [_device_record(name, default) for name in _core.device_names()],
        "toolchains": _toolchains(),
        "default_device": {"name": default.name if default else settings.device, "why": why_not},
    }


def _toolchains() -> list[dict[str, Any]]:
    from .compiler import toolchain

    fields = ("name", "about", "version", "is_installed", "damage")
    return [
        {field: getattr(one, field) for field in fields} | {"folder": str(one.folder)} for one in toolchain.toolchains()
    ]


def _cache_warning() -> list[str]:
    folder = settings.cache_dir
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if settings.no_cache or (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return []
    return [f"nothing is kept in {folder}, which cannot be written: each process compiles anew. Set UNIFY_CACHE_DIR."]


def _default() -> tuple[Device | None, str]:
    """The default device, or why there is none."""
    try:
        return default_device(), ""
    except Error as error:
        return None, str(error)


def _device_record(name: str, default: Device | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": name,
        "default": default is not None and default == name,
        "state": "not opened",
        "why": "",
        "memory_free_bytes": None,
        "memory_total_bytes": None,
        "properties": {},
        "capabilities": {},
    }
    try:
        device = open_device(name)
        record |= {"properties": dict(device.properties), "capabilities": dict(device.capabilities)}
        record["memory_free_bytes"], record["memory_total_bytes"] = device.memory_info()
        if device.state != "healthy":
            device.synchronize()  # which says why
    except Error as error:
        record["why"] = str(error).partition("\n")[0]
    if record["properties"]:
        record["state"] = device.state
    return record


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # 10 ms that other users of `unify` need not pay

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_text(found: dict[str, Any]) -> str:
    """What `unify info` prints."""
    packages = (f"{name} {number or 'not installed'}" for name, number in found["packages"].items())
    lines = [
        f"unify {found['unify']}, Python {found['python']}, {found['platform']}",
        f"with {', '.join(packages)}",
        f"cache: {found['cache_dir']}",
        *(f"warning: {warning}" for warning in found["warnings"]),
        "",
        "devices",
    ]
    for device in found["devices"]:
        lines += _device_lines(device)
    if found["default_device"]["why"]:
        lines.append(f"  no default: {found['default_device']['why']}")
    lines += ["", "backends"]
    for backend in found["backends"]:
        state = f"absent: {backend['why']}" if backend["why"] else _count(backend["devices"], "device")
        lines.append(f"  {backend['name']:10} {backend['version']:8} {backend['library']}; {state}")
    lines.append("  Others come as plugins: docs/abi.md.")
    lines += ["", "toolchains"]
    for one in found["toolchains"]:
        state = f"{one['version']}  {one['folder']}" if one["is_installed"] else "not installed"
        if one["damage"]:
            state = f"damaged: {one['damage']}"
        advice = "" if one["is_installed"] else f"; `unify toolchain install {one['name']}`"
        lines.append(f"  {one['name']:10} {state}{advice}")
    return "\n".join(lines)


def _device_lines(device: dict[str, Any]) -> list[str]:
    properties, capabilities = device["properties"], device["capabilities"]
    if not properties:
        return [f"  {device['name']:10} {device['state']}: {device['why']}"]
    facts = [_count(properties["cores"], "core")]
    if device["memory_free_bytes"] is not None:
        free, total = (device[f"memory_{which}_bytes"] / 2**30 for which in ("free", "total"))
        facts.append(f"{free:.1f} of {total:.1f} GiB free")
    facts += [f"target {properties['target']}", device["state"]]
    if properties["driver_version"]:
        facts.append(f"driver {properties['driver_version']}")
    if properties["simulated"]:
        facts.append("simulated")
    lines = [f"  {device['name']:10} {properties['name']}{' (default)' if device['default'] else ''}"]
    lines.append(f"{'':13}{'; '.join(facts)}")
    if device["why"]:
        lines.append(f"{'':13}{device['why']}")
    for support in ("native", "emulated", "absent"):
        names = [name.replace("_", " ") for name, how in capabilities.items() if how == support]
        if names:
            lines.append(f"{'':13}{support}: {', '.join(names)}")
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
