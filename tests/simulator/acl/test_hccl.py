"""Collective operations and messages of the simulated HCCL, between processes, against NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .driver import Acl
from .ranks import (
    BF16,
    DTYPES,
    FP16,
    FP32,
    FP64,
    INT8,
    INT32,
    INT64,
    MAX,
    MIN,
    PROD,
    SUM,
    UINT8,
    Array,
    CommConfig,
    Rank,
    SendRecvItem,
    run,
)


def from_bfloat(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat(values: Array) -> Array:
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), (bits >> 16 | 0x40).astype(np.uint16), rounded)


def values(random: np.random.Generator, type_: int, count: int) -> Array:
    dtype = np.dtype(DTYPES[type_])
    if type_ == BF16:
        return to_bfloat(random.normal(size=count).astype(np.float32) * 3)
    if dtype.kind == "f":
        return (random.normal(size=count) * 3).astype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return random.integers(low, high, count, dtype, endpoint=True)


def reduced(arrays: list[Array], type_: int, op: int) -> Array:
    """In the order of the ranks; float16 and bfloat16 in float32, rounded once."""
    work = arrays
    if type_ in (FP16, BF16):
        work = [from_bfloat(each) if type_ == BF16 else each.astype(np.float32) for each in arrays]
    combine = {SUM: np.add, PROD: np.multiply, MAX: np.maximum, MIN: np.minimum}[op]
    out = work[0]
    with np.errstate(all="ignore"):
        for each in work[1:]:
            out = combine(out, each)
        return to_bfloat(out) if type_ == BF16 else out.astype(arrays[0].dtype)


class Case:
    """Random input of all ranks, the same in every process."""

    def __init__(self, rank: Rank, seed: int) -> None:
        self.rank, self.seed = rank, seed
        self.shared = np.random.default_rng(seed)

    def of(self, rank: int, type_: int, count: int) -> Array:
        return values(np.random.default_rng((self.seed, rank)), type_, count)

    def of_all(self, type_: int, count: int) -> list[Array]:
        return [self.of(rank, type_, count) for rank in range(self.rank.size)]

    def count(self) -> int:
        return int(self.shared.choice([0, 1, 7, 64, 65, 1000, int(self.shared.integers(1, 30000))]))


def check(rank: Rank, call: str, given: Array | None, out: Array | None, *arguments: int) -> None:
    """`given` goes in; afterwards the output must be `out`, or is nobody's business."""
    send = rank.upload(given) if given is not None else 0
    recv = rank.upload(np.zeros_like(out)) if out is not None else 0
    rank.call(call, send, recv, *arguments, rank.comm, rank.stream)
    rank.finish()
    if out is not None:
        np.testing.assert_array_equal(rank.download(recv, out), out, f"{call}, rank {rank.rank}")
    if given is not None:
        np.testing.assert_array_equal(rank.download(send, given), given)


def reductions(rank: Rank) -> None:
    """Each type, with one operation of the four."""
    reduce_each(rank, [(type_, (type_ // 2 + type_) % 4) for type_ in DTYPES])


def all_reductions(rank: Rank) -> None:
    reduce_each(rank, [(type_, op) for type_ in DTYPES for op in (SUM, PROD, MAX, MIN)])


def reduce_each(rank: Rank, cases: list[tuple[int, int]]) -> None:
    rank.init()
    me, size = rank.rank, rank.size
    for number, (type_, op) in enumerate(cases):
        case = Case(rank, number)
        count, root = case.count(), int(case.shared.integers(size))
        given = case.of_all(type_, count)
        out = reduced(given, type_, op)
        check(rank, "HcclAllReduce", given[me], out, count, type_, op)
        check(rank, "HcclReduce", given[me], out if me == root else None, count, type_, op, root)
        in_place = rank.upload(given[me])
        rank.call("HcclAllReduce", in_place, in_place, count, type_, op, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(in_place, out), out)
        wide = case.of_all(type_, size * count)
        mine = reduced([each[me * count : (me + 1) * count] for each in wide], type_, op)
        check(rank, "HcclReduceScatter", wide[me], mine, count, type_, op)
        uneven(rank, case, type_, op)


def uneven(rank: Rank, case: Case, type_: int, op: int) -> None:
    """HcclReduceScatterV: parts of different lengths, with gaps, in another order."""
    me, size = rank.rank, rank.size
    counts = case.shared.integers(0, 500, size)
    places = np.zeros(size, np.int64)
    end = 0
    for each in case.shared.permutation(size):
        places[each] = end + 3
        end = int(places[each] + counts[each])
    given = case.of_all(type_, end)
    mine = [each[places[me] : places[me] + counts[me]] for each in given]
    send, recv = rank.upload(given[me]), rank.upload(np.zeros_like(mine[me]))
    listed = [(ctypes.c_uint64 * size)(*map(int, each)) for each in (counts, places)]
    rank.call("HcclReduceScatterV", send, *listed, recv, int(counts[me]), type_, op, rank.comm, rank.stream)
    rank.finish()
    out = reduced(mine, type_, op)
    np.testing.assert_array_equal(rank.download(recv, out), out)


def special_numbers(rank: Rank) -> None:
    """All float16 and bfloat16 numbers, halves in between, what overflows, infinities and NaN."""
    rank.init()
    everything = np.arange(1 << 16, dtype=np.uint16)
    for type_ in (FP16, BF16):
        other = np.roll(everything, 12345 * rank.rank).view(DTYPES[type_])
        given = [np.roll(everything, 12345 * each).view(DTYPES[type_]) for each in range(rank.size)]
        assert (given[rank.rank].view(np.uint16) == other.view(np.uint16)).all()
        for op in (SUM, PROD, MAX, MIN):
            out, expected = rank.all_reduce(other, type_, op), reduced(given, type_, op)
            wide, wanted = (from_bfloat(each) if type_ == BF16 else each for each in (out, expected))
            np.testing.assert_array_equal(wide, wanted, f"type {type_}, op {op}")  # NaN equals NaN


def movements(rank: Rank) -> None:
    rank.init()
    me, size = rank.rank, rank.size
    types = [*DTYPES, 12, 15]  # int128 and float8 too are moved
    for number, type_ in enumerate(types):
        case = Case(rank, number)
        wide, data = (2, INT64) if type_ == 12 else (1, INT8 if type_ == 15 else type_)
        count, root = case.count(), int(case.shared.integers(size))
        length = count * wide
        given = case.of_all(data, length)
        check(rank, "HcclAllGather", given[me], np.concatenate(given), count, type_)
        buffer = rank.upload(given[me])
        rank.call("HcclBroadcast", buffer, count, type_, root, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(buffer, given[root]), given[root])
        all_wide = case.of_all(data, length * size)
        mine = slice(me * length, (me + 1) * length)
        check(rank, "HcclScatter", all_wide[root] if me == root else None, all_wide[root][mine], count, type_, root)
        turned = np.concatenate([each[mine] for each in all_wide])
        send, recv = rank.upload(all_wide[me]), rank.upload(np.zeros_like(turned))
        rank.call("HcclAlltoAll", send, count, type_, recv, count, type_, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(recv, turned), turned)


def uneven_movements(rank: Rank) -> None:
    rank.init()
    me, size = rank.rank, rank.size
    for number, type_ in enumerate(DTYPES):
        case = Case(rank, number)
        counts = case.shared.integers(0, 300, (size, size))  # from, to
        counts[case.shared.integers(size)] = 0
        given = case.of_all(type_, 2000)
        starts = np.concatenate([np.zeros((size, 1), int), counts.cumsum(1)], 1)[:, :-1]
        parts = [given[each][starts[each, me] : starts[each, me] + counts[each, me]] for each in range(size)]
        out = np.concatenate(parts)
        send, recv = rank.upload(given[me]), rank.upload(np.zeros(max(out.size, 1), out.dtype))
        matrix = (ctypes.c_uint64 * (size * size))(*map(int, counts.flat))
        rank.call("HcclAlltoAllVC", send, matrix, type_, recv, type_, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(recv, out), out)
        backwards = np.concatenate([*parts[::-1]])  # rank 0's part last
        places = backwards.size - counts[:, me].cumsum()
        lists = [(ctypes.c_uint64 * size)(*map(int, each)) for each in (counts[me], starts[me], counts[:, me], places)]
        again = rank.upload(np.zeros(max(out.size, 1), out.dtype))
        rank.call("HcclAlltoAllV", send, *lists[:2], type_, again, *lists[2:], type_, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(again, backwards), backwards)
        lengths = counts[:, 0]
        gathered = np.concatenate([given[each][: lengths[each]] for each in range(size)])
        places = np.concatenate([[0], lengths.cumsum()[:-1]])
        lists = [(ctypes.c_uint64 * size)(*map(int, each)) for each in (lengths, places)]
        target = rank.upload(np.zeros(max(gathered.size, 1), gathered.dtype))
        rank.call("HcclAllGatherV", send, int(lengths[me]), target, *lists, type_, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(target, gathered), gathered)


def messages(rank: Rank) -> None:
    rank.init()
    me, size = rank.rank, rank.size
    following, before = (me + 1) % size, (me - 1) % size
    for number in range(12):
        case = Case(rank, number)
        type_, count = list(DTYPES)[number], case.count()
        given = case.of_all(type_, count)
        send, recv = rank.upload(given[me]), rank.upload(np.zeros_like(given[me]))
        calls = [("HcclSend", send, following), ("HcclRecv", recv, before)]
        for call, buffer, peer in calls if me % 2 else calls[::-1]:  # neighbours: one sends first, the other receives
            rank.call(call, buffer, count, type_, peer, rank.comm, rank.stream)
        rank.finish()
        np.testing.assert_array_equal(rank.download(recv, given[before]), given[before])
        # A group: both ask for the same first, the group in it ends nothing.
        rank.call("HcclGroupStart")
        rank.call("HcclSend", recv, count, type_, following, rank.comm, rank.stream)
        rank.call("HcclGroupStart")
        rank.call("HcclRecv", send, count, type_, before, rank.comm, rank.stream)
        rank.call("HcclGroupEnd")
        assert rank.synchronize() == "SUCCESS"
        rank.call("HcclGroupEnd")
        rank.finish()
        twice = given[(me - 2) % size]
        np.testing.assert_array_equal(rank.download(send, twice), twice)
        send = rank.upload(given[me])
        # All with all at once, themselves too, the larger ranks' items first; two to each.
        inbox = [[rank.upload(np.zeros_like(given[me])) for _ in range(2)] for _ in range(size)]
        items = [
            SendRecvItem(kind, buffer, count, type_, peer)
            for peer in reversed(range(size))
            for turn in range(2)
            for kind, buffer in ((0, send), (1, inbox[peer][turn]))
        ]
        listed = (SendRecvItem * len(items))(*items)
        rank.call("HcclBatchSendRecv", listed, len(items), rank.comm, rank.stream)
        rank.finish()
        for peer in range(size):
            for each in inbox[peer]:
                np.testing.assert_array_equal(rank.download(each, given[peer]), given[peer])


def groups(rank: Rank) -> None:
    world = rank.init(config=CommConfig(name=b"world"))
    name = ctypes.create_string_buffer(128)
    rank.call("HcclGetCommName", world, name)
    assert name.value == b"world"
    for turn in range(3):  # of the same number again, once the first ones are gone
        halves = [[0, 2], [3, 1]]
        mine = next(each for each in halves if rank.rank in each)
        group = rank.group(world, mine, 7)
        told = ctypes.c_uint32()
        rank.call("HcclGetRankSize", group, ctypes.byref(told))
        assert told.value == 2
        rank.call("HcclGetRankId", group, ctypes.byref(told))
        assert told.value == mine.index(rank.rank)
        out = rank.all_reduce(np.array([rank.rank, turn]), INT64, SUM, group)
        assert out.tolist() == [sum(mine), 2 * turn]
        rank.call("HcclCommDestroy", group)
        assert rank.result("HcclGetRankId", group, ctypes.byref(told)) == "E_PARA"
    alone = rank.group(world, [rank.rank], rank.rank)
    assert rank.all_reduce(np.array([5]), INT64, SUM, alone).tolist() == [5]
    left_out = ctypes.c_uint64(1)
    parent = ctypes.byref(ctypes.c_uint64(world))
    nobody = (parent, 0, None, 0xFFFFFFFF, 0, ctypes.byref(CommConfig()), ctypes.byref(left_out))
    rank.call("HcclCreateSubCommConfig", *nobody)
    assert left_out.value == 0


def orders(rank: Rank) -> None:
    """The same communicator on two streams: what counts is the order of the calls. Then a graph."""
    rank.init()
    acl, other = rank.acl, rank.acl.stream()
    streams = [rank.stream, other]
    buffers = [rank.upload(np.full(1000, each, np.int32)) for each in range(40)]
    for number, buffer in enumerate(buffers):
        stream = streams[(number * number + rank.rank * number) % 2]
        rank.call("HcclAllReduce", buffer, buffer, 1000, INT32, SUM, rank.comm, stream)
    acl.aclrtSynchronizeStream(other)
    rank.finish()
    for number, buffer in enumerate(buffers):
        assert (rank.download(buffer, np.zeros(1000, np.int32)) == number * rank.size).all()
    acl.aclmdlRICaptureBegin(rank.stream, 0)
    for _ in range(2):
        rank.call("HcclAllReduce", buffers[1], buffers[1], 1000, INT32, SUM, rank.comm, rank.stream)
    graph = ctypes.c_uint64()
    acl.aclmdlRICaptureEnd(rank.stream, ctypes.byref(graph))
    for _ in range(3):
        acl.aclmdlRIExecuteAsync(graph.value, rank.stream)
        rank.call("HcclAllReduce", buffers[0], buffers[0], 1000, INT32, SUM, rank.comm, rank.stream)
    rank.finish()
    assert (rank.download(buffers[1], np.zeros(1000, np.int32)) == rank.size**7).all()


def pieces(rank: Rank) -> None:
    """Memory as torch_npu's expandable segments have it, in an order of its own on every rank."""
    rank.init()
    acl, granule, count = rank.acl, 2 << 20, 6
    address = acl.made("aclrtReserveMemAddress", ctypes.c_size_t(granule * count), ctypes.c_size_t(0), None, 0)
    properties = (ctypes.c_uint32 * 8)(0, 0, 4, 0, 1)
    handles = [
        acl.made("aclrtMallocPhysical", ctypes.c_size_t(granule), properties, ctypes.c_uint64(0)) for _ in range(count)
    ]
    order = np.random.default_rng(rank.rank).permutation(count)
    for place, each in enumerate(order):
        acl.aclrtMapMem(address + place * granule, ctypes.c_size_t(granule), ctypes.c_size_t(0), handles[each], 0)
    given = [
        np.random.default_rng(each).normal(size=granule * count // 4).astype(np.float32) for each in range(rank.size)
    ]
    size_t = ctypes.c_size_t(granule * count)
    acl.aclrtMemcpy(address, size_t, given[rank.rank].ctypes.data, size_t, 1)
    rank.call("HcclAllReduce", address, address, given[0].size, FP32, SUM, rank.comm, rank.stream)
    rank.finish()
    np.testing.assert_array_equal(rank.download(address, given[0]), reduced(given, FP32, SUM))


@pytest.mark.parametrize(
    ("work", "size"),
    [
        (reductions, 3),
        (movements, 4),
        (uneven_movements, 3),
        (messages, 3),
        (groups, 4),
        (orders, 2),
        pytest.param(special_numbers, 2, marks=pytest.mark.slow),
        pytest.param(pieces, 2, marks=pytest.mark.slow),
        pytest.param(all_reductions, 4, marks=pytest.mark.slow),
        pytest.param(reductions, 8, marks=pytest.mark.slow),
        pytest.param(messages, 4, marks=pytest.mark.slow),
        pytest.param(reductions, 1, marks=pytest.mark.slow),
    ],
)
def test_ranks_get_what_numpy_computes(work, size: int, tmp_path: Path) -> None:
    assert run(work, size, tmp_path) == [0] * size


@pytest.fixture
def pair(acl: Acl, tmp_path: Path) -> Iterator[list[Rank]]:
    """Two ranks in this process, on its two devices."""
    comms = (ctypes.c_uint64 * 2)()
    ranks = [Rank(0, 2, tmp_path, acl, device) for device in (0, 1)]
    ranks[0].call("HcclCommInitAll", 2, None, comms)
    for rank, comm in zip(ranks, comms, strict=True):
        rank.comm = comm
    yield ranks
    for rank in ranks:
        rank.result("HcclCommDestroy", rank.comm)


def on_both(pair: list[Rank], work) -> None:
    for rank in pair:
        rank.acl.aclrtSetDevice(rank.device)
        work(rank)


def test_devices_of_one_process_are_ranks(pair: list[Rank]) -> None:
    given = [np.arange(1000, dtype=np.float64), np.ones(1000)]
    buffers: dict[int, int] = {}

    def begin(rank: Rank) -> None:
        buffers[rank.device] = rank.upload(given[rank.device])
        address = buffers[rank.device]
        rank.call("HcclAllReduce", address, address, 1000, FP64, SUM, rank.comm, rank.stream)

    def end(rank: Rank) -> None:
        rank.finish()
        np.testing.assert_array_equal(rank.download(buffers[rank.device], given[0]), given[0] + given[1])

    on_both(pair, begin)
    on_both(pair, end)


@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [
        ("HcclAllReduce", (0, 0, 5, FP32, SUM), "E_PTR"),
        ("HcclAllReduce", (4096, 4096, 5, FP32, SUM), "E_PARA"),
        ("HcclAllReduce", ("buffer", "buffer", 5, 13, SUM), "E_PARA"),
        ("HcclAllReduce", ("buffer", "buffer", 5, 15, SUM), "E_NOT_SUPPORT"),
        ("HcclAllReduce", ("buffer", "buffer", 5, FP32, 7), "E_PARA"),
        ("HcclAllReduce", ("buffer", "odd", 5, FP32, SUM), "E_PARA"),
        ("HcclAllReduce", ("buffer", "buffer", 1 << 62, FP32, SUM), "E_PARA"),
        ("HcclAllReduce", ("buffer", "buffer", 2000, FP32, SUM), "E_PARA"),
        ("HcclAllReduce", ("pinned", "buffer", 5, FP32, SUM), "E_PARA"),
        ("HcclAllReduce", ("other device's", "buffer", 5, FP32, SUM), "E_PARA"),
        ("HcclBroadcast", ("buffer", 5, FP32, 2), "E_PARA"),
        ("HcclSend", ("buffer", 5, FP32, 0), "E_PARA"),
        ("HcclSend", ("buffer", 5, FP32, 2), "E_PARA"),
        ("HcclAlltoAll", ("buffer", 5, FP32, "buffer", 5, UINT8), "E_PARA"),
        ("HcclBatchSendRecv", (None, 1), "E_PTR"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(pair: list[Rank], call: str, arguments: tuple, answer: str) -> None:
    rank = pair[0]
    rank.acl.aclrtSetDevice(1)
    others = rank.acl.malloc(4096)
    rank.acl.aclrtSetDevice(0)
    buffer = rank.acl.malloc(4096)
    named = {"buffer": buffer, "odd": buffer + 1, "pinned": rank.acl.pinned(4096), "other device's": others}
    given = [named.get(each, each) if isinstance(each, str) else each for each in arguments]
    assert rank.result(call, *given, rank.comm, rank.stream) == answer
    assert call in rank.acl.message()
    assert rank.synchronize() == "SUCCESS"
    assert rank.async_error() == "SUCCESS"


def test_a_communicator_that_is_none_is_refused(acl: Acl, tmp_path: Path) -> None:
    rank = Rank(0, 2, tmp_path, acl)
    out = ctypes.c_uint64()
    nothing = ctypes.create_string_buffer(4108)
    assert rank.result("HcclBarrier", 0, rank.stream) == "E_PTR"
    assert rank.result("HcclBarrier", 0x40, rank.stream) == "E_PARA"
    assert rank.result("HcclGroupEnd") == "E_PARA"
    assert rank.result("HcclCommInitRootInfo", 2, nothing, 0, ctypes.byref(out)) == "E_PARA"
    rank.call("HcclGetRootInfo", nothing)
    for size, number in ((0, 0), (65, 0), (2, 2)):
        assert rank.result("HcclCommInitRootInfo", size, nothing, number, ctypes.byref(out)) == "E_PARA"
    config = CommConfig(magic=5)
    given = (1, nothing, 0, ctypes.byref(config), ctypes.byref(out))
    assert rank.result("HcclCommInitRootInfoConfig", *given) == "E_PARA"
    assert "HcclCommConfigInit" in acl.message()
    rank.call("HcclCommInitRootInfo", 1, nothing, 0, ctypes.byref(out))
    assert rank.result("HcclCommInitClusterInfo", b"table", 0, ctypes.byref(out)) == "E_NOT_SUPPORT"
    assert "HcclCommInitClusterInfo is not served" in acl.message()


def test_there_is_no_device_twice_among_those_of_a_process(acl: Acl, tmp_path: Path) -> None:
    rank = Rank(0, 2, tmp_path, acl)
    comms = (ctypes.c_uint64 * 2)()
    for devices in ((1, 1), (0, 2)):
        assert rank.result("HcclCommInitAll", 2, (ctypes.c_int32 * 2)(*devices), comms) == "E_PARA"
