"""Torch as a peer: what every case with it does the same way."""

from __future__ import annotations

import ctypes
import importlib
import time
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


def by_head(torch: Any, array: Any, name: str) -> Any:
    """[1, heads, tokens, width], contiguous: what torch's kernels are written for."""
    return tensor(torch, array, name).transpose(0, 1).unsqueeze(0).contiguous()


def keep_pages() -> None:
    """Makes glibc keep what is freed (mallopt(3)): for functions without `out=`, whose results are fresh pages else."""
    mallopt, trim_threshold, mmap_max = ctypes.CDLL(None).mallopt, -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def fastest(steps: list[Callable[[], Any]]) -> Callable[[], Any]:
    """The step that was done in the shortest time, of three tries each."""

    def seconds(step: Callable[[], Any]) -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return min(steps, key=lambda step: min(seconds(step) for _ in range(3)))


def side(step: Callable[[], Any]) -> Side:
    """A side whose step returns a tensor, which is its result too. The CPU needs no waiting."""
    return Side(step=step, result=lambda: step().float().numpy())
