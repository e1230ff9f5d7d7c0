"""Ranks of an HCCL communicator: processes of their own, forked by one that has no device yet."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..driver import MIB
from .driver import ROOT, Acl

SUM, PROD, MAX, MIN = range(4)
INT8, INT16, INT32, FP16, FP32, INT64, UINT64, UINT8, UINT16, UINT32, FP64, BF16 = range(12)
# bfloat16 is kept as its bits.
DTYPES = {
    INT8: np.int8,
    INT16: np.int16,
    INT32: np.int32,
    FP16: np.float16,
    FP32: np.float32,
    INT64: np.int64,
    UINT64: np.uint64,
    UINT8: np.uint8,
    UINT16: np.uint16,
    UINT32: np.uint32,
    FP64: np.float64,
    BF16: np.uint16,
}
NAMES = {
    int(value): name
    for name, value in (
        line.removeprefix("RESULT(HCCL_").split(", ")[:2]
        for line in (ROOT / "csrc/simulator/ascend/hccl_results.inc").read_text().splitlines()
        if line.startswith("RESULT(")
    )
}
ROOT_INFO_BYTES = 4108
Array = np.ndarray[Any, Any]


class SendRecvItem(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint),
        ("buffer", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("type", ctypes.c_uint),
        ("peer", ctypes.c_uint32),
    )


class CommConfig(ctypes.Structure):
    """HcclCommConfig, as HcclCommConfigInit leaves it."""

    _fields_ = (
        ("bytes", ctypes.c_size_t),
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64),
        ("buffer_size", ctypes.c_uint32),
        ("deterministic", ctypes.c_uint32),
        ("name", ctypes.c_char * 128),
        ("udi", ctypes.c_char * 128),
        ("expansion", ctypes.c_uint32),
        ("traffic_class", ctypes.c_uint32),
        ("service_level", ctypes.c_uint32),
        ("world_rank", ctypes.c_uint32),
        ("job", ctypes.c_uint64),
        ("zero_copy", ctypes.c_uint8),
        ("timeout", ctypes.c_int32),
        ("algorithm", ctypes.c_char * 1600),
        ("retry", ctypes.c_char * 50),
        ("retry_parameters", ctypes.c_char * 128),
        ("buffer_name", ctypes.c_char * 128),
        ("qos", ctypes.c_uint32),
        ("window", ctypes.c_uint64),
    )

    def __init__(self, **fields: Any) -> None:
        unset = {"buffer_size": 0xFFFFFFFF, "deterministic": 0xFFFFFFFF, "timeout": -1, "window": 16}
        made = {"bytes": ctypes.sizeof(CommConfig), "magic": 0xF0F0F0F0, "version": 10, **unset}
        super().__init__(**made | fields)


class Rank:
    """One rank, on a device of its own process, with a stream."""

    def __init__(self, rank: int, size: int, folder: Path, acl: Acl | None = None, device: int = 0) -> None:
        self.rank, self.size, self.folder, self.device = rank, size, folder, device
        self.acl = acl or Acl(memory_bytes=512 * MIB)
        self.acl.aclrtSetDevice(device)
        self.stream = self.acl.stream()
        self.comm = 0

    def result(self, call: str, *arguments: Any) -> str:
        """The name of what a call of HCCL's returns: "SUCCESS", "E_PARA"."""
        made = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
        return NAMES[getattr(self.acl.library, call)(*made)]

    def call(self, name: str, *arguments: Any) -> None:
        answer = self.result(name, *arguments)
        assert answer == "SUCCESS", f"rank {self.rank}: {name}: {answer}: {self.acl.message()}"

    def root_info(self, name: str = "root") -> Any:
        """What rank 0 made, as all ranks get it."""
        info = ctypes.create_string_buffer(ROOT_INFO_BYTES)
        path = self.folder / name
        if self.rank == 0:
            self.call("HcclGetRootInfo", info)
            path.with_suffix(".new").write_bytes(info.raw)
            path.with_suffix(".new").rename(path)
        else:
            self.wait_for(name)
            info.raw = path.read_bytes()
        return info

    def init(self, name: str = "root", config: CommConfig | None = None) -> int:
        out = ctypes.c_uint64()
        info = self.root_info(name)
        if config is None:
            self.call("HcclCommInitRootInfo", self.size, info, self.rank, ctypes.byref(out))
        else:
            with_config = (self.size, info, self.rank, ctypes.byref(config), ctypes.byref(out))
            self.call("HcclCommInitRootInfoConfig", *with_config)
        self.comm = out.value
        return out.value

    def group(self, parent: int, ranks: list[int], number: int, config: CommConfig | None = None) -> int:
        out = ctypes.c_uint64()
        listed = (ctypes.c_uint32 * len(ranks))(*ranks)
        arguments = (ctypes.byref(ctypes.c_uint64(parent)), len(ranks), listed, number, ranks.index(self.rank))
        self.call("HcclCreateSubCommConfig", *arguments, ctypes.byref(config or CommConfig()), ctypes.byref(out))
        return out.value

    def tell(self, name: str) -> None:
        (self.folder / name).touch()

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < until, f"rank {self.rank} waits for {name}"
            time.sleep(0.002)

    def upload(self, array: Array) -> int:
        return self.acl.upload(array.tobytes()) if array.nbytes else 0

    def download(self, address: int, like: Array) -> Array:
        if not like.nbytes:
            return like.copy()
        return np.frombuffer(self.acl.download(address, like.nbytes), like.dtype).reshape(like.shape)

    def synchronize(self) -> str:
        return self.acl.result("aclrtSynchronizeStream", self.stream)

    def finish(self) -> None:
        answer = self.synchronize()
        assert answer == "SUCCESS", f"rank {self.rank}: {answer}: {self.acl.message()}"

    def async_error(self) -> str:
        out = ctypes.c_uint32()
        self.call("HcclGetCommAsyncError", self.comm, ctypes.byref(out))
        return NAMES[out.value]

    def all_reduce(self, array: Array, type_: int, op: int = SUM, comm: int = 0) -> Array:
        send, recv = self.upload(array), self.upload(np.zeros_like(array))
        self.call("HcclAllReduce", send, recv, array.size, type_, op, comm or self.comm, self.stream)
        self.finish()
        out = self.download(recv, array)
        for address in (send, recv):
            if address:
                self.acl.aclrtFree(address)
        return out


def run(work: Callable[[Rank], None], size: int, folder: Path, **environment: str) -> list[int]:
    """Runs `work(rank)`, a function of a module, in processes of their own. Returns their exit codes, 0 for each that
    returned; what others raised is printed."""
    command = [sys.executable, "-c", "from tests.simulator.acl.ranks import main; main()"]
    command += [work.__module__, work.__name__, str(size), str(folder)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    print(finished.stdout, finished.stderr)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return [int(code) for code in finished.stdout.split()]


def _run_rank(work: Callable[[Rank], None], rank: int, size: int, folder: Path) -> int:
    try:
        work(Rank(rank, size, folder))
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def main() -> None:
    """The process that has the ranks as its children."""
    module, name, size, folder = sys.argv[1:]
    work: Callable[[Rank], None] = getattr(importlib.import_module(module), name)
    children = []
    for rank in range(int(size)):
        child = os.fork()
        if child == 0:
            os._exit(_run_rank(work, rank, int(size), Path(folder)))
        children.append(child)
    until = time.monotonic() + 100
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > until:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    print(*[codes[child] for child in children])
