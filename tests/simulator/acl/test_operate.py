"""Work of operators that another library brings, on the simulated device's streams."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ..driver import MIB
from .driver import Acl

RUN = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_char), ctypes.c_size_t
)
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Memory(ctypes.Structure):
    _fields_ = (("address", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class Operator(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("memory", ctypes.POINTER(Memory)),
        ("count", ctypes.c_uint32),
        ("run", RUN),
        ("release", RELEASE),
        ("data", ctypes.c_void_p),
    )


class Library:
    """Operators in Python; `released` says how often one was given up."""

    def __init__(self, acl: Acl) -> None:
        self._acl = acl
        self._kept: list[object] = []
        self.released = 0

    def operate(
        self, work: Callable[[Sequence[int]], str], *memory: tuple[int, int], stream: int = 0, name: str = "aclnnTest"
    ) -> int:
        """Enqueues `work(where)`, which returns why it failed, or nothing."""

        def run(_: int, where: Sequence[int], why: ctypes.Array[ctypes.c_char], size: int) -> int:
            text = work([where[i] or 0 for i in range(len(memory))]).encode()[: size - 1]
            ctypes.memmove(why, text + b"\0", len(text) + 1)
            return 507015 if text else 0

        def release(_: int) -> None:
            self.released += 1

        ranges = (Memory * len(memory))(*memory)
        op = Operator(name.encode(), ranges, len(memory), RUN(run), RELEASE(release), None)
        self._kept.append(op)  # functions of ctypes live as long as somebody holds them
        return int(self._acl.library.unify_simulator_operate(ctypes.byref(op), ctypes.c_void_p(stream)))


@pytest.fixture
def library(acl: Acl) -> Library:
    return Library(acl)


def doubled(size: int) -> Callable[[Sequence[int]], str]:
    """Work that doubles floats where they are."""

    def work(where: Sequence[int]) -> str:
        array = np.frombuffer((ctypes.c_char * (4 * size)).from_address(where[0]), np.float32)
        array *= 2
        return ""

    return work


def test_it_takes_its_turn_in_the_stream(acl: Acl, library: Library) -> None:
    data = np.arange(1 << 16, dtype=np.float32)
    stream, host, address = acl.stream(), acl.pinned(data.nbytes), acl.malloc(data.nbytes)
    ctypes.memmove(host, data.tobytes(), data.nbytes)
    assert acl.copy_later(address, host, data.nbytes, 1, stream) == "SUCCESS"
    for _ in range(5):
        assert library.operate(doubled(data.size), (address, data.nbytes), stream=stream) == 0
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(address, data.nbytes) == (data * 32).tobytes()
    assert library.released == 5


def test_memory_of_no_bytes_is_nowhere(acl: Acl, library: Library) -> None:
    seen: list[Sequence[int]] = []

    def work(where: Sequence[int]) -> str:
        seen.append(where)
        return ""

    assert library.operate(work, (0, 0), (1 << 40, 0)) == 0
    acl.aclrtSynchronizeDevice()
    assert seen == [[0, 0]]


@pytest.mark.parametrize("kind", ["nobody's", "the host's", "over the end", "another device's"])
def test_memory_that_is_not_the_device_s_is_an_exception_of_its_cores(acl: Acl, library: Library, kind: str) -> None:
    host = ctypes.create_string_buffer(4096)
    acl.aclrtSetDevice(1)
    other = acl.malloc(4096)
    acl.aclrtSetDevice(0)
    memory = {
        "nobody's": (1 << 40, 16),
        "the host's": (ctypes.addressof(host), 16),
        "over the end": (acl.malloc(4096), 1 << 20),
        "another device's": (other, 16),
    }[kind]
    ran: list[int] = []
    assert library.operate(lambda _: ran.append(1) or "", memory) == 0
    assert acl.result("aclrtSynchronizeDevice") == "RT_AICORE_EXCEPTION"
    assert f"aclnnTest uses {memory[1]} bytes at {memory[0]:#x} that are not the device's" in acl.message()
    assert not ran
    assert library.released == 1


def test_what_it_says_is_the_reason_at_the_next_synchronisation(acl: Acl, library: Library) -> None:
    assert library.operate(lambda _: "the shapes do not fit") == 0
    assert acl.result("aclrtSynchronizeDevice") == "RT_AICORE_EXCEPTION"
    assert "fault kernel_name=aclnnTest. aclnnTest: the shapes do not fit" in acl.message()


def test_a_planned_fault_shows_by_its_name(acl: Acl, library: Library) -> None:
    acl.fail("aclnnTest:1:aicore")
    assert library.operate(lambda _: "") == 0
    acl.aclrtSynchronizeDevice()
    assert library.operate(lambda _: "") == 0
    assert acl.result("aclrtSynchronizeDevice") == "RT_AICORE_EXCEPTION"


def test_a_call_that_is_refused_gives_the_work_up(acl: Acl, library: Library) -> None:
    assert library.operate(lambda _: "", stream=12345) != 0
    assert library.released == 1


def test_a_graph_runs_it_as_often_as_it_is_replayed(acl: Acl, library: Library) -> None:
    address, stream = acl.upload(np.ones(4, np.float32).tobytes()), acl.stream()
    acl.aclmdlRICaptureBegin(stream, 0)
    assert library.operate(doubled(4), (address, 16), stream=stream) == 0
    graph = acl.told("aclmdlRICaptureEnd", stream)
    assert acl.download(address, 16) == np.ones(4, np.float32).tobytes()
    for _ in range(3):
        acl.aclmdlRIExecuteAsync(graph, stream)
    acl.aclrtSynchronizeStream(stream)
    assert acl.download(address, 16) == np.full(4, 8, np.float32).tobytes()
    assert library.released == 0
    acl.aclmdlRIDestroy(graph)
    assert library.released == 1


def test_memory_of_several_pieces_is_reached_as_one(acl: Acl, library: Library) -> None:
    """As torch_npu's expandable segments have it: physical memory is mapped piece by piece, in any order."""
    piece = 2 * MIB
    base = acl.reserve(2 * piece)
    for place in (1, 0):
        handle = acl.physical(piece)
        assert acl.map(base + place * piece, piece, handle) == "SUCCESS"
        acl.aclrtFreePhysical(handle)
    ones = np.ones(2 * piece // 4, np.float32)

    def fill(where: Sequence[int]) -> str:
        ctypes.memmove(where[0], ones.tobytes(), ones.nbytes)
        return ""

    assert library.operate(fill, (base, ones.nbytes)) == 0
    assert library.operate(doubled(ones.size), (base, ones.nbytes)) == 0
    acl.aclrtSynchronizeDevice()
    assert acl.download(base, ones.nbytes) == (2 * ones).tobytes()
    for place in (0, 1):
        acl.aclrtUnmapMem(base + place * piece)
    acl.aclrtReleaseMemAddress(base)


def test_a_library_says_why_it_refuses(acl: Acl) -> None:
    assert acl.library.unify_simulator_refuse(b"aclnnTestGetWorkspaceSize", 161002, b"No such shape.") == 161002
    assert "No such shape." in acl.message()
