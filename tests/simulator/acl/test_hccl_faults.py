"""What becomes of an operation of the simulated HCCL when the ranks disagree, one dies, or a fault is planned."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

from .driver import Acl
from .ranks import FP32, INT32, MAX, SUM, CommConfig, Rank, SendRecvItem, run

WAITED_S = 10.0  # no more, on a busy machine: what ends a wait is noticed within a fraction of a second


def enqueue(rank: Rank) -> int:
    """An operation whose result, all ranks' sum, lies at the address returned."""
    buffer = rank.upload(np.full(1000, rank.rank + 1, np.int32))
    rank.call("HcclAllReduce", buffer, buffer, 1000, INT32, SUM, rank.comm, rank.stream)
    return buffer


def check_sum(rank: Rank) -> None:
    buffer = enqueue(rank)
    rank.finish()
    assert (rank.download(buffer, np.zeros(1000, np.int32)) == rank.size * (rank.size + 1) // 2).all()


def dies(rank: Rank) -> None:
    """The last rank goes, with work enqueued that it never gets to."""
    rank.init()
    check_sum(rank)
    if rank.rank == rank.size - 1:
        rank.wait_for("waiting")
        os._exit(9)
    enqueue(rank)
    rank.tell("waiting")
    begun = time.monotonic()
    assert rank.synchronize() == "RT_SUSPECT_REMOTE_ERROR"
    assert time.monotonic() - begun < WAITED_S
    told = rank.acl.message()
    assert f"waits for rank {rank.size - 1}, whose process ended" in told
    assert rank.async_error() == "E_REMOTE"
    assert "whose process ended" in rank.acl.message()
    assert rank.result("HcclBarrier", rank.comm, rank.stream) != "SUCCESS"
    rank.call("HcclCommDestroy", rank.comm)


def dies_before_it_sends(rank: Rank) -> None:
    rank.init()
    if rank.rank == 1:
        rank.wait_for("waiting")
        os._exit(9)
    buffer = rank.acl.malloc(4096)
    rank.call("HcclRecv", buffer, 10, INT32, 1, rank.comm, rank.stream)
    rank.tell("waiting")
    assert rank.synchronize() == "RT_SUSPECT_REMOTE_ERROR"
    assert "waits for rank 1, whose process ended" in rank.acl.message()


def destroys(rank: Rank) -> None:
    rank.init()
    if rank.rank == 1:
        rank.call("HcclCommDestroy", rank.comm)
        rank.wait_for("told")
        return
    enqueue(rank)
    assert rank.synchronize() == "RT_SUSPECT_REMOTE_ERROR"
    assert "waits for rank 1, which destroyed its communicator" in rank.acl.message()
    rank.tell("told")


def ends_after_its_part(rank: Rank) -> None:
    """Who does its part and goes leaves nobody in the lurch; nor does who never waits."""
    rank.init()
    check_sum(rank)
    if rank.rank == 1:
        buffer = enqueue(rank)
        rank.finish()
        assert buffer
        os._exit(0)
    time.sleep(0.2)
    check_sum(rank)


@pytest.mark.parametrize(
    ("work", "codes"),
    [
        (dies, [0, 0, 9]),
        pytest.param(dies_before_it_sends, [0, 9], marks=pytest.mark.slow),
        pytest.param(destroys, [0, 0], marks=pytest.mark.slow),
        (ends_after_its_part, [0, 0]),
    ],
)
def test_a_rank_that_is_gone_ends_the_wait_for_it_and_is_named(work, codes: list[int], tmp_path: Path) -> None:
    assert run(work, len(codes), tmp_path) == codes


def disagree(rank: Rank) -> None:
    rank.init()
    buffer = rank.acl.malloc(1 << 20)
    other = rank.acl.malloc(1 << 20)
    me = rank.rank
    counts = (ctypes.c_uint64 * 2)(5 + me, 5)
    places = (ctypes.c_uint64 * 2)(0, 100)
    pair = (counts, places, INT32)
    cases = [
        ("HcclAllReduce", (buffer, buffer, 10 + me, INT32, SUM), "count 10, sum", "count 11, sum"),
        ("HcclAllReduce", (buffer, buffer, 10, INT32 + 2 * me, SUM), "(int32, ", "(float32, "),
        ("HcclAllReduce", (buffer, buffer, 10, FP32, (SUM, MAX)[me]), "sum)", "max)"),
        ("HcclBroadcast", (buffer, 10, FP32, me), "root 0", "root 1"),
        (
            ("HcclBarrier", "HcclAllReduce")[me],
            ((), (buffer, buffer, 10, FP32, SUM))[me],
            "HcclBarrier",
            "HcclAllReduce(",
        ),
        ("HcclAlltoAllV", (buffer, *pair, other, *pair), "rank 0 has 20 bytes for rank 1, which takes 24", ""),
        (("HcclSend", "HcclRecv")[me], (buffer, 10 + me, INT32, 1 - me), "HcclSend(int32, count 10", "count 11)"),
    ]
    for call, arguments, *told in cases:
        rank.call(call, *arguments, rank.comm, rank.stream)
        assert rank.synchronize() == "RT_AICPU_EXCEPTION", call
        message = rank.acl.message()
        assert [each for each in ("EI0005", *told) if each not in message] == [], message
        assert rank.async_error() == "E_PARA"
        rank.acl.message()
        check_sum(rank)  # they agree that it failed: the next one is the next one


def test_ranks_that_disagree_are_told_what_both_sides_call(tmp_path: Path) -> None:
    assert run(disagree, 2, tmp_path) == [0, 0]


def waits(rank: Rank) -> None:
    seconds = 2
    config = CommConfig(timeout=seconds) if rank.rank == 1 else None
    rank.init(config=config)
    check_sum(rank)
    if rank.rank == 2:
        rank.wait_for("told by 0")
        rank.wait_for("told by 1")
        return
    enqueue(rank)
    begun = time.monotonic()
    assert rank.synchronize() == "RT_FFTS_PLUS_TIMEOUT"
    assert seconds * 0.9 < time.monotonic() - begun < WAITED_S
    message = rank.acl.message()
    assert "EI0002" in message
    assert "waited 2 s for ranks 2 (HCCL_EXEC_TIMEOUT)" in message
    assert rank.async_error() == "E_TIMEOUT"
    assert rank.result("HcclBarrier", rank.comm, rank.stream) == "E_TIMEOUT"
    rank.tell(f"told by {rank.rank}")


def test_an_operation_waits_no_longer_than_its_timeout(tmp_path: Path) -> None:
    assert run(waits, 3, tmp_path, HCCL_EXEC_TIMEOUT="2") == [0, 0, 0]


def never_comes(rank: Rank) -> None:
    out = ctypes.c_uint64()
    info = rank.root_info()
    if rank.rank == 1:
        rank.wait_for("told")
        return
    begun = time.monotonic()
    assert rank.result("HcclCommInitRootInfo", 3, info, rank.rank, ctypes.byref(out)) != "SUCCESS"
    took, message = time.monotonic() - begun, rank.acl.message()
    assert took < WAITED_S
    # Who came first waits that long, and goes; the other one may then see that.
    waited = took > 0.9 and "waited 1 s for ranks 1 (HCCL_CONNECT_TIMEOUT)" in message
    assert waited or "was there and went" in message, message
    rank.tell("told")


def comes_and_dies(rank: Rank) -> None:
    out = ctypes.c_uint64()
    info = rank.root_info()
    if rank.rank == 1:
        rank.wait_for("told")
        return
    if rank.rank == 2:
        rank.acl.fail("time:0.2:lost")  # while it waits
    answer = rank.result("HcclCommInitRootInfo", 3, info, rank.rank, ctypes.byref(out))
    assert answer == ("E_REMOTE" if rank.rank == 0 else "E_RUNTIME"), answer
    if rank.rank == 0:
        assert "rank 2 of 3" in rank.acl.message()
        rank.tell("told")


def says_other_sizes(rank: Rank) -> None:
    out = ctypes.c_uint64()
    info = rank.root_info()
    if rank.rank == 0:
        rank.tell("first")
        assert rank.result("HcclCommInitRootInfo", 2, info, 0, ctypes.byref(out)) == "E_TIMEOUT"
        return
    rank.wait_for("first")
    time.sleep(0.1)
    assert rank.result("HcclCommInitRootInfo", 3, info, 1, ctypes.byref(out)) == "E_PARA"
    assert "rank 1 says nRanks=3, another one said 2" in rank.acl.message()
    assert rank.result("HcclCommInitRootInfo", 2, info, 0, ctypes.byref(out)) == "E_PARA"
    assert "Rank 0 is taken by process" in rank.acl.message()


def ended_root(rank: Rank) -> None:
    info = rank.root_info()
    if rank.rank == 0:
        os._exit(0)
    time.sleep(0.2)  # until its parent has seen it end
    out = ctypes.c_uint64()
    assert rank.result("HcclCommInitRootInfo", 2, info, 1, ctypes.byref(out)) == "E_PARA"
    assert "the process that made it has ended" in rank.acl.message()


@pytest.mark.parametrize(
    ("work", "size", "timeout"),
    [
        (never_comes, 3, "1"),
        (says_other_sizes, 2, "1"),
        pytest.param(comes_and_dies, 3, "10", marks=pytest.mark.slow),
        pytest.param(ended_root, 2, "10", marks=pytest.mark.slow),
    ],
)
def test_a_communicator_that_is_not_complete_is_an_error_on_all_ranks(
    work, size: int, timeout: str, tmp_path: Path
) -> None:
    assert run(work, size, tmp_path, HCCL_CONNECT_TIMEOUT=timeout) == [0] * size


def aborted(rank: Rank) -> None:
    """One rank never comes; the others' work is aborted, and all resume."""
    rank.init()
    acl = rank.acl
    for turn in range(2):
        check_sum(rank)
        if rank.rank == 0:
            enqueue(rank)
            assert acl.result("aclrtSynchronizeStreamWithTimeout", rank.stream, 50) != "SUCCESS"
            if turn == 0:
                acl.aclrtDeviceTaskAbort(0, 5000)
            else:
                acl.result("aclrtStreamAbort", rank.stream)
                rank.synchronize()
            assert rank.result("HcclBarrier", rank.comm, rank.stream) == "E_SUSPENDING"
            assert rank.async_error() == "E_SUSPENDING"
        rank.call("HcclCommResume", rank.comm)
    check_sum(rank)
    if rank.rank == 0:
        enqueue(rank)
    rank.call("HcclCommSuspend", rank.comm)
    rank.finish()
    assert rank.result("HcclBarrier", rank.comm, rank.stream) == "E_SUSPENDING"
    rank.call("HcclCommResume", rank.comm)
    check_sum(rank)


def test_ranks_resume_after_an_abort(tmp_path: Path) -> None:
    assert run(aborted, 2, tmp_path) == [0, 0]


def planned(rank: Rank) -> None:
    rank.init()
    acl = rank.acl
    if rank.rank == 0:
        acl.fail("HcclAllReduce:1:corrupt")
        acl.fail("HcclAllReduce:2:hang")
        acl.fail("HcclBarrier:0:HCCL_E_NETWORK")
    check_sum(rank)
    buffer = enqueue(rank)
    rank.finish()
    wrong = int((rank.download(buffer, np.zeros(1000, np.int32)) != 3).sum())
    assert wrong == (1 if rank.rank == 0 else 0)
    enqueue(rank)
    if rank.rank == 0:
        assert acl.result("aclrtSynchronizeStreamWithTimeout", rank.stream, 100) == "RT_STREAM_SYNC_TIMEOUT"
        acl.library.unify_simulator_release(0)
    rank.finish()
    if rank.rank == 0:
        assert rank.result("HcclBarrier", rank.comm, rank.stream) == "E_NETWORK"
        acl.message()
    check_sum(rank)
    if rank.rank == 0:
        acl.fail("HcclAllReduce:2:link")
    for _ in range(2):
        check_sum(rank)
    enqueue(rank)
    if rank.rank == 0:
        assert rank.synchronize() == "RT_LINK_ERROR"
        rank.wait_for("told")
    else:
        assert rank.synchronize() == "RT_FFTS_PLUS_TIMEOUT"
        rank.tell("told")


def test_faults_are_planned_by_the_calls_names(tmp_path: Path) -> None:
    assert run(planned, 2, tmp_path, HCCL_EXEC_TIMEOUT="2") == [0, 0]


def is_lost_while_it_waits(rank: Rank) -> None:
    rank.init()
    if rank.rank == 1:
        rank.wait_for("told")
        return
    enqueue(rank)
    rank.acl.fail("time:0.1:lost")
    assert rank.synchronize() == "RT_LOST_HEARTBEAT"
    rank.tell("told")


def frees_what_is_used(rank: Rank) -> None:
    """The memory that the others still read stays until they have."""
    rank.init()
    if rank.rank == 1:
        rank.wait_for("freed")
    buffer = enqueue(rank)
    if rank.rank == 0:
        assert rank.acl.result("aclrtSynchronizeStreamWithTimeout", rank.stream, 100) == "RT_STREAM_SYNC_TIMEOUT"
        rank.acl.aclrtFree(buffer)
        rank.tell("freed")
    rank.finish()
    if rank.rank == 1:
        assert (rank.download(buffer, np.zeros(1000, np.int32)) == 3).all()


def ends_while_it_waits(rank: Rank) -> None:
    """The process can: its threads do not keep it."""
    rank.init()
    if rank.rank == 0:
        enqueue(rank)


@pytest.mark.parametrize("work", [is_lost_while_it_waits, frees_what_is_used, ends_while_it_waits])
def test_a_wait_ends_with_its_device_or_memory(work, tmp_path: Path) -> None:
    assert run(work, 2, tmp_path) == [0, 0]


def frees_before(rank: Rank) -> None:
    rank.init()
    if rank.rank == 0:
        rank.acl.fail("aclrtMemsetAsync:0:hang")
        hung = rank.acl.malloc(16)
        rank.acl.fill_later(hung, 1, 16, rank.stream)
        buffer = enqueue(rank)
        rank.acl.aclrtFree(buffer)
        rank.acl.library.unify_simulator_release(0)
        assert rank.synchronize() == "RT_SYS_DMA"
        assert "a buffer changed since the call" in rank.acl.message()
        assert rank.async_error() == "E_MEMORY"


def test_memory_freed_before_its_operation_is_an_error(tmp_path: Path) -> None:
    assert run(frees_before, 2, tmp_path) == [0, 0]


def crosses(rank: Rank) -> None:
    """Both send first: with no buffer in between neither goes on. In a batch both do."""
    rank.init()
    buffer = rank.acl.malloc(4096)
    items = (SendRecvItem * 2)(
        SendRecvItem(0, buffer, 10, INT32, 1 - rank.rank), SendRecvItem(1, buffer + 2048, 10, INT32, 1 - rank.rank)
    )
    rank.call("HcclBatchSendRecv", items, 2, rank.comm, rank.stream)
    rank.finish()
    rank.call("HcclSend", buffer, 10, INT32, 1 - rank.rank, rank.comm, rank.stream)
    assert rank.synchronize() == "RT_FFTS_PLUS_TIMEOUT"
    rank.tell(f"done by {rank.rank}")
    rank.wait_for(f"done by {1 - rank.rank}")


@pytest.mark.slow
def test_two_that_send_first_time_out(tmp_path: Path) -> None:
    assert run(crosses, 2, tmp_path, HCCL_EXEC_TIMEOUT="1") == [0, 0]


@pytest.mark.parametrize("text", ["soon", "-1", "99999999999"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(
    acl: Acl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    rank = Rank(0, 1, tmp_path, acl)
    info = rank.root_info()
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", text)
    assert rank.result("HcclCommInitRootInfo", 1, info, 0, ctypes.byref(ctypes.c_uint64())) == "E_PARA"
    assert f"HCCL_EXEC_TIMEOUT={text}" in acl.message()
