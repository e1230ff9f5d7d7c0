"""Torch as a peer: what every case with it does the same way."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

from ..case import Setup, Side


def load(setup: Setup) -> Any:
    """Returns torch, with as many threads as ours. It is looked up by name: type checkers need no peer installed."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(setup.threads)
    torch.set_grad_enabled(False)
    return torch


def dtype(torch: Any, name: str) -> Any:
    """torch.float32 of "fp32", and so on."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[name]


def tensor(torch: Any, array: Any, name: str = "fp32") -> Any:
    """A NumPy array as the dtype of that short name, in torch's own memory, as `_ours.tensor` has it in ours."""
    return torch.from_numpy(array).to(dtype(torch, name), copy=True)


def keep_pages() -> None:
    """Makes glibc keep what is freed (mallopt(3)): for functions without `out=`, whose results are fresh pages else."""
    mallopt, trim_threshold, mmap_max = ctypes.CDLL(None).mallopt, -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def side(step: Callable[[], Any]) -> Side:
    """A side whose step returns a tensor, which is its result too. The CPU needs no waiting."""
    return Side(step=step, result=lambda: step().float().numpy())
