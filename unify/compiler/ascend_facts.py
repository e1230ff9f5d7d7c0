"""What the vendor's compiler decided about a kernel, by the IR that it leaves: on-chip memory, cores, workspace."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass

# Bits of an element, where the name does not say them.
_BITS = {"bf16": 16, "index": 64}
_SPACES = {"ub": "ub", "cbuf": "l1", "cc": "l0c"}
_LIMITS = {"ub": "UB_SIZE", "l1": "L1_SIZE", "l0c": "L0C_SIZE"}
_CAST = re.compile(r"hivm\.hir\.pointer_cast\(([^)]*)\)[^\n]*?: memref<([^\n]*?), #hivm\.address_space<(\w+)>>")
_CONSTANT = re.compile(r"(%[\w$.-]+) = (?:arith|llvm\.mlir)\.constant(?: |\()(-?\d+)")
# A buffer with two places is picked anew in each round of its loop.
_PICKED = re.compile(r"arith\.select [^\n]*: memref<[^\n]*#hivm\.address_space<(?:ub|cbuf)>>")
_SYNC = re.compile(r"\bhivm\.hir\.(?:set_flag|wait_flag|pipe_barrier|sync_block_set|sync_block_wait)\b")


@dataclass(frozen=True)
class Facts:
    """One kernel on one chip. Bytes of the program's on-chip buffers and what there is of each; None: not told.

    cube_cores, vector_cores: what the chip has. mode: which of them it runs on, "aiv" (vector), "aic" (cube) or "mix".
    double_buffered: whether a loop's buffer has two places, so that its loads overlap with computing. workspace_bytes:
    device memory of each block. lock_count: 8-byte words of the lock for atomics whose result is used. task_type: the
    vendor's number, 10 vector, 20 cube, 32 mixed, in kernels seen.
    """

    mode: str
    cube_cores: int
    vector_cores: int
    ub_bytes: int | None
    ub_limit: int | None
    l1_bytes: int | None
    l1_limit: int | None
    l0c_bytes: int | None
    l0c_limit: int | None
    double_buffered: bool
    workspace_bytes: int | None = None
    lock_count: int = 0
    lock_init: int = 0
    task_type: int | None = None
    sync_ops: int = 0

    def as_dict(self) -> dict[str, object]:
        """As a binary's metadata holds them."""
        return asdict(self)


def read(hivm: str, log: str) -> Facts:
    """hivm: module.hivm.opt.mlir; log: what the compiler wrote beside it."""
    used = _buffers(hivm)
    told = re.search(r"UB\s+size\s*=\s*(\d+)\s*bits", log)  # of the 950, whose last IR has no buffers any more
    if told is not None:
        used["ub"] = int(told[1]) // 8
    bits = {space: _entry(hivm, entry) for space, entry in _LIMITS.items()}
    limits = {space: found // 8 if found is not None else None for space, found in bits.items()}
    return Facts(
        mode=_mode(hivm),
        cube_cores=_entry(hivm, "CUBE_CORE_COUNT") or 0,
        vector_cores=_entry(hivm, "VECTOR_CORE_COUNT") or 0,
        ub_bytes=used.get("ub"),
        ub_limit=limits["ub"],
        l1_bytes=used.get("l1"),
        l1_limit=limits["l1"],
        l0c_bytes=used.get("l0c"),
        l0c_limit=limits["l0c"],
        double_buffered=_PICKED.search(hivm) is not None,
        workspace_bytes=_constant_of(hivm, "infer_workspace_shape") or (0 if "_infer_" in hivm else None),
        lock_count=_constant_of(hivm, "infer_sync_block_lock_num") or 0,
        lock_init=_constant_of(hivm, "infer_sync_block_lock_init") or 0,
        task_type=_constant_of(hivm, "infer_task_type"),
        sync_ops=len(_SYNC.findall(hivm)),
    )


def _mode(hivm: str) -> str:
    found = re.search(r"module_core_type = #hivm\.module_core_type<(\w+)>", hivm)
    if found is not None:
        return found[1].lower()
    cores = set(re.findall(r"func_core_type = #hivm\.func_core_type<(AI[CV])>[^\n]*\bhacc\.entry", hivm))
    cores |= set(re.findall(r"\bhacc\.entry[^\n]*func_core_type = #hivm\.func_core_type<(AI[CV])>", hivm))
    return "mix" if len(cores) != 1 else cores.pop().lower()


def _entry(hivm: str, name: str) -> int | None:
    """A number of what the compiler knows about the chip."""
    found = re.search(rf'"{name}", (\d+) : i32', hivm)
    return int(found[1]) if found is not None else None


def _constant_of(hivm: str, function: str) -> int | None:
    """What one of the functions returns that the compiler leaves for the launcher."""
    found = re.search(rf"@\w*{function}_function\(\)[^\n]*\n\s*%\S+ = arith\.constant (-?\d+)", hivm)
    return int(found[1]) if found is not None else None


def _buffers(hivm: str) -> dict[str, int]:
    """The end of the highest buffer of each kind of on-chip memory."""
    used: dict[str, int] = {}
    constants: dict[str, int] = {}
    for line in hivm.splitlines():
        if "func.func" in line:
            constants = {}
        if (constant := _CONSTANT.search(line)) is not None:
            constants[constant[1]] = int(constant[2])
        if (cast := _CAST.search(line)) is None or cast[3] not in _SPACES:
            continue
        size, space = _size(cast[2]), _SPACES[cast[3]]
        if (place := constants.get(cast[1].strip())) is not None:
            used[space] = max(used.get(space, 0), place + size)
    return used


def _size(memref: str) -> int:
    """Bytes of "4x16xf16" or "4x16xf16, strided<…>"."""
    *shape, element = memref.split(",")[0].split("x")
    bits = _BITS.get(element) or int(re.sub(r"\D", "", element) or 8)
    return math.prod(int(extent) for extent in shape if extent.isdecimal()) * bits // 8
