"""Memory: statistics, reuse in the order of streams, limits, running out."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import unify as un
from unify import _core
from unify._config import settings
from unify._errors import OutOfMemory, ShapeError
from unify.testing.conformance.fixtures import Gate

native_host_calls = pytest.mark.needs("host_calls", support="native")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def settled(device: un.Device) -> Iterator[None]:
    """Earlier cases' memory is back, and no limit of this one stays."""
    gc.collect()
    device.synchronize()
    un.trim_memory(device)
    yield
    un.set_memory_limit(0, device)
    device.synchronize()


@pytest.fixture
def expandable(device: un.Device) -> Iterator[None]:
    """Segments grow and shrink in place."""
    _core.set_expandable_segments(True)
    yield
    _core.set_expandable_segments(settings.expandable_segments)


def allocated(device: un.Device) -> int:
    return un.memory_statistics(device).allocated_bytes


@pytest.mark.parametrize("size", [1, 7, 64, 4096, 100_000, MIB, 20 * MIB])
def test_allocated_bytes_follow_tensors(device: un.Device, size: int) -> None:
    before = allocated(device)
    tensor = un.empty(size, un.uint8, device)
    assert size <= allocated(device) - before <= 2 * size + 4096
    del tensor
    device.synchronize()
    assert allocated(device) == before


def test_reserved_covers_allocated(device: un.Device) -> None:
    tensors = [un.empty(size, un.uint8, device) for size in (1, 1000, MIB, 3 * MIB)]
    statistics = un.memory_statistics(device)
    assert statistics.reserved_bytes >= statistics.allocated_bytes >= sum(tensor.nbytes for tensor in tensors)


def test_the_peak_stays_and_can_be_reset(device: un.Device) -> None:
    before = allocated(device)
    tensor = un.empty(8 * MIB, un.uint8, device)
    del tensor
    device.synchronize()
    assert un.memory_statistics(device).allocated_bytes_peak >= before + 8 * MIB
    un.reset_memory_peaks(device)
    assert un.memory_statistics(device).allocated_bytes_peak < before + 8 * MIB


def test_allocations_are_counted(device: un.Device) -> None:
    before = un.memory_statistics(device).allocations
    tensors = [un.empty(100, un.uint8, device) for _ in range(10)]
    assert un.memory_statistics(device).allocations == before + len(tensors)


def test_a_view_keeps_the_memory(device: un.Device) -> None:
    before = allocated(device)
    tensor = un.zeros((1000, 100), un.float32, device)
    view = tensor[10:20]
    del tensor
    device.synchronize()
    assert allocated(device) > before
    np.testing.assert_array_equal(view.numpy(), np.zeros((10, 100)))
    del view
    device.synchronize()
    assert allocated(device) == before


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 0, 5)])
def test_a_tensor_without_elements_takes_nothing(device: un.Device, shape: tuple[int, ...]) -> None:
    before = allocated(device)
    tensor = un.zeros(shape, un.float64, device)
    assert tensor.size == 0
    assert tensor.nbytes == 0
    assert tensor.numpy().shape == shape
    assert allocated(device) == before


def test_addresses_are_aligned(device: un.Device) -> None:
    alignment = device.properties["alignment"]
    tensors = [un.empty(size, un.uint8, device) for size in (1, 3, 65, 1000, 5000, MIB + 1)]
    assert all(tensor.address % min(alignment, 256) == 0 for tensor in tensors)


def test_live_tensors_do_not_overlap(device: un.Device) -> None:
    tensors = [un.empty(size, un.uint8, device) for size in [1, 17, 500, 4097, 70_000] * 20]
    ranges = sorted((tensor.address, tensor.address + tensor.nbytes) for tensor in tensors)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))


def test_memory_freed_on_a_stream_is_reused_on_it_at_once(device: un.Device, stream: un.Stream) -> None:
    tensor = un.empty(MIB, un.uint8, device, stream=stream)
    address = tensor.address
    del tensor
    assert un.empty(MIB, un.uint8, device, stream=stream).address == address


def test_a_loop_of_allocations_takes_no_more_from_the_device(device: un.Device, stream: un.Stream) -> None:
    with stream:
        for _ in range(10):
            un.zeros(MIB, un.uint8, device)
        stream.synchronize()
        before = un.memory_statistics(device)
        for _ in range(500):
            un.zeros(MIB, un.uint8, device)
        after = un.memory_statistics(device)
    assert after.reserved_bytes <= before.reserved_bytes
    assert after.cache_hits >= before.cache_hits + 400


@native_host_calls
def test_block_freed_on_one_stream_is_not_reused_by_another_before_it_passed(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    held, free = two_streams
    gate.close(held)
    tensor = un.empty(MIB, un.uint8, device, stream=held)
    tensor.fill_(1, stream=held)
    address = tensor.address
    del tensor
    others = [un.empty(MIB, un.uint8, device, stream=free) for _ in range(4)]
    assert address not in [other.address for other in others]
    gate.open()
    held.synchronize()


@native_host_calls
def test_block_used_on_a_second_stream_stays_until_that_stream_passed(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    owner, user = two_streams
    tensor = un.full(MIB, 5, un.uint8, device, stream=owner)
    result = un.empty(MIB, un.uint8, device, stream=user)
    user.wait(owner)
    gate.close(user)
    result.copy_(tensor, stream=user)  # nobody calls record_stream
    address = tensor.address
    del tensor
    thief = un.full(MIB, 9, un.uint8, device, stream=owner)
    owner.synchronize()
    assert thief.address != address
    gate.open()
    user.synchronize()
    np.testing.assert_array_equal(result.numpy(), np.full(MIB, 5, np.uint8))


@native_host_calls
def test_waiting_bytes_are_counted(device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate) -> None:
    owner, user = two_streams
    tensor = un.zeros(MIB, un.uint8, device, stream=owner)
    owner.synchronize()
    gate.close(user)
    tensor.fill_(1, stream=user)
    del tensor
    assert un.memory_statistics(device).waiting_bytes >= MIB
    gate.open()
    user.synchronize()
    un.trim_memory(device)
    assert un.memory_statistics(device).waiting_bytes == 0


def test_trim_returns_what_is_unused(device: un.Device) -> None:
    tensor = un.empty(32 * MIB, un.uint8, device)
    held = un.memory_statistics(device).reserved_bytes
    del tensor
    device.synchronize()
    un.trim_memory(device)
    statistics = un.memory_statistics(device)
    assert statistics.reserved_bytes <= held - 32 * MIB


def test_trim_keeps_what_is_used(device: un.Device) -> None:
    tensor = un.full(MIB, 3, un.uint8, device)
    un.trim_memory(device)
    np.testing.assert_array_equal(tensor.numpy(), np.full(MIB, 3, np.uint8))


def test_the_limit_is_kept_and_its_error_has_the_figures(device: un.Device) -> None:
    un.set_memory_limit(un.memory_statistics(device).reserved_bytes + 16 * MIB, device)
    with pytest.raises(OutOfMemory) as raised:
        un.empty(64 * MIB, un.uint8, device)
    assert raised.value.device == device.name
    assert "64" in str(raised.value)
    assert isinstance(raised.value, MemoryError)


def test_allocation_works_again_after_running_out(device: un.Device) -> None:
    un.set_memory_limit(un.memory_statistics(device).reserved_bytes + 16 * MIB, device)
    with pytest.raises(OutOfMemory):
        un.empty(64 * MIB, un.uint8, device)
    assert un.zeros(MIB, un.uint8, device).numpy().sum() == 0


@pytest.mark.parametrize("size", [1000, 2 * MIB, 5 * MIB])
def test_the_limit_is_for_what_is_asked_and_not_for_what_is_set_aside(device: un.Device, size: int) -> None:
    un.set_memory_limit(un.memory_statistics(device).reserved_bytes + size + MIB, device)
    assert un.zeros(size, un.uint8, device).numpy().sum() == 0


def test_what_a_stream_left_free_serves_others_before_running_out(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream]
) -> None:
    first, second = two_streams
    held = [un.full(3 * MIB, number, un.uint8, device, stream=first) for number in range(5)]
    del held[1::2]
    first.synchronize()
    un.set_memory_limit(un.memory_statistics(device).reserved_bytes, device)
    taken = [un.full(3 * MIB, 9, un.uint8, device, stream=second) for _ in range(2)]
    second.synchronize()
    for number, tensor in zip((0, 2, 4), held, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), np.full(3 * MIB, number, np.uint8))
    del taken


@native_host_calls
def test_what_a_busy_stream_left_free_is_not_given_away(
    device: un.Device, two_streams: tuple[un.Stream, un.Stream], gate: Gate
) -> None:
    busy, other = two_streams
    held = un.empty(3 * MIB, un.uint8, device, stream=busy)
    freed = un.empty(3 * MIB, un.uint8, device, stream=busy)
    address = freed.address
    gate.close(busy)
    freed.fill_(1, stream=busy)
    del freed
    assert un.empty(3 * MIB, un.uint8, device, stream=other).address != address
    gate.open()
    busy.synchronize()
    del held


def test_unused_memory_is_given_back_before_running_out(device: un.Device) -> None:
    un.set_memory_limit(un.memory_statistics(device).reserved_bytes + 48 * MIB, device)
    tensors = [un.empty(8 * MIB, un.uint8, device) for _ in range(4)]
    del tensors
    assert un.empty(40 * MIB, un.uint8, device).nbytes == 40 * MIB


def test_running_out_is_counted(device: un.Device) -> None:
    before = un.memory_statistics(device).out_of_memory
    un.set_memory_limit(MIB, device)
    with pytest.raises(OutOfMemory):
        un.empty(512 * MIB, un.uint8, device)
    assert un.memory_statistics(device).out_of_memory == before + 1


def test_more_than_any_device_has_is_out_of_memory(device: un.Device) -> None:
    with pytest.raises(OutOfMemory):
        un.empty(1 << 55, un.uint8, device)


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (1 << 40, 1 << 40), (1 << 62, 4), (1,) * 20])
def test_an_impossible_shape_is_an_error(device: un.Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        un.empty(shape, un.float32, device)


def test_the_snapshot_adds_up(device: un.Device) -> None:
    tensors = [un.empty(size, un.uint8, device) for size in (10, 10_000, MIB)]
    statistics = un.memory_statistics(device)
    segments = un.memory_snapshot(device)
    assert sum(segment.bytes for segment in segments) == statistics.reserved_bytes
    assert len(segments) == statistics.segments
    for segment in segments:
        assert sum(block.bytes for block in segment.blocks) == segment.bytes
        assert {block.state for block in segment.blocks} <= {"allocated", "free", "waiting"}
    addresses = {block.address for s in segments for block in s.blocks if block.state == "allocated"}
    assert {tensor.address for tensor in tensors} <= addresses


@pytest.mark.needs("graphs")
def test_the_snapshot_adds_up_while_a_graph_has_memory(device: un.Device, stream: un.Stream) -> None:
    with un.Graph.capture(stream) as graph:
        tensor = un.zeros(MIB, un.uint8, device)
    statistics = un.memory_statistics(device)
    segments = un.memory_snapshot(device)
    assert sum(segment.bytes for segment in segments) == statistics.reserved_bytes
    assert len(segments) == statistics.segments
    assert tensor.address in {block.address for segment in segments for block in segment.blocks}
    del graph, tensor
    device.synchronize()
    assert sum(segment.bytes for segment in un.memory_snapshot(device)) < statistics.reserved_bytes


@pytest.mark.parametrize("seed", range(5))
def test_random_allocation_and_release_never_mixes_contents(device: un.Device, stream: un.Stream, seed: int) -> None:
    generator = np.random.default_rng(seed)
    live: dict[int, un.Tensor] = {}
    with stream:
        for step in range(300):
            if live and generator.random() < 0.45:
                number = int(generator.choice(list(live)))
                tensor = live.pop(number)
                np.testing.assert_array_equal(tensor.numpy(), np.full(tensor.shape, number, np.int32))
            else:
                size = int(2 ** generator.uniform(0, 16))
                live[step] = un.full(size, step, un.int32, device)
        for number, tensor in live.items():
            np.testing.assert_array_equal(tensor.numpy(), np.full(tensor.shape, number, np.int32))


def peak_of_a_growing_batch(device: un.Device) -> tuple[int, int]:
    """The largest size, and what was reserved at most beyond what was before."""
    un.trim_memory(device)
    before = un.memory_statistics(device).reserved_bytes
    un.reset_memory_peaks(device)
    size = largest = 3 * MIB
    while size < 200 * MIB:
        largest = size
        un.empty(size, un.uint8, device)
        size = size * 3 // 2
    return largest, un.memory_statistics(device).reserved_bytes_peak - before


@pytest.mark.needs("virtual_memory")
def test_an_expandable_segment_grows_with_a_batch(device: un.Device, expandable: None) -> None:
    largest, reserved = peak_of_a_growing_batch(device)
    assert largest <= reserved <= largest + 20 * MIB
    _core.set_expandable_segments(False)
    largest, reserved = peak_of_a_growing_batch(device)
    assert reserved > 2 * largest


@pytest.mark.needs("virtual_memory")
def test_what_lies_over_several_commits_is_copied_as_one(
    device: un.Device, stream: un.Stream, expandable: None
) -> None:
    with stream:
        numbers = np.arange(16 * MIB, dtype=np.int32)  # 64 MiB
        tensor = un.asarray(numbers, device=device, copy=True)
        other = un.empty(tensor.shape, un.int32, device)
        other.copy_(tensor)
        tensor.fill_(1)
        assert (tensor.numpy() == 1).all()
    np.testing.assert_array_equal(other.numpy(), numbers)


@pytest.mark.needs("virtual_memory")
def test_idle_memory_goes_back_from_the_middle_of_an_expandable_segment(device: un.Device, expandable: None) -> None:
    un.trim_memory(device)
    before = un.memory_statistics(device).reserved_bytes
    tensors = [un.full(20 * MIB, number, un.uint8, device) for number in range(5)]
    del tensors[1:4]
    device.synchronize()
    un.trim_memory(device)
    assert un.memory_statistics(device).reserved_bytes - before <= 60 * MIB
    between = un.full(50 * MIB, 9, un.uint8, device)
    assert tensors[0].address < between.address < tensors[1].address
    assert un.memory_statistics(device).reserved_bytes - before <= 120 * MIB
    for number, tensor in ((0, tensors[0]), (4, tensors[1]), (9, between)):
        np.testing.assert_array_equal(tensor.numpy(), np.full(tensor.shape, number, np.uint8))
    del tensors, between, tensor
    device.synchronize()
    un.trim_memory(device)
    assert un.memory_statistics(device).reserved_bytes <= before


@pytest.mark.needs("virtual_memory")
@pytest.mark.parametrize("seed", range(3))
def test_expandable_segments_never_mix_contents_of_streams(device: un.Device, expandable: None, seed: int) -> None:
    generator = np.random.default_rng(seed)
    un.trim_memory(device)
    before = un.memory_statistics(device).reserved_bytes
    streams = [un.Stream(device) for _ in range(3)]
    live: dict[int, un.Tensor] = {}  # by the step that made it, on the stream of its turn
    for step in range(200):
        if live and generator.random() < 0.45:
            number = int(generator.choice(list(live)))
            with streams[number % 3]:
                tensor = live.pop(number)
                np.testing.assert_array_equal(tensor.numpy(), np.full(tensor.shape, number, np.int32))
                del tensor
        else:
            with streams[step % 3]:
                live[step] = un.full(int(2 ** generator.uniform(0, 22)), step, un.int32, device)
        if step % 40 == 20:
            un.trim_memory(device)
        statistics, segments = un.memory_statistics(device), un.memory_snapshot(device)
        assert sum(segment.bytes for segment in segments) == statistics.reserved_bytes
        blocks = sorted((block.address, block.bytes) for segment in segments for block in segment.blocks)
        assert all(address + size <= after for (address, size), (after, _) in itertools.pairwise(blocks))
    device.synchronize()
    for number, tensor in live.items():
        np.testing.assert_array_equal(tensor.numpy(), np.full(tensor.shape, number, np.int32))
    del live, tensor
    device.synchronize()
    un.trim_memory(device)
    assert un.memory_statistics(device).reserved_bytes <= before


def test_threads_allocate_and_free_at_once(device: un.Device) -> None:
    before = allocated(device)
    failures: list[str] = []

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        with un.Stream(device):
            for step in range(100):
                number = seed * 1000 + step
                tensor = un.full(int(generator.integers(1, 5000)), number, un.int32, device)
                if not (tensor.numpy() == number).all():
                    failures.append(f"{number} was overwritten")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device.synchronize()
    assert failures == []
    assert allocated(device) == before


def test_a_tensor_dropped_by_another_thread_gives_its_memory_back(device: un.Device) -> None:
    before = allocated(device)
    held = [un.zeros(MIB, un.uint8, device)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    device.synchronize()
    assert allocated(device) == before


def test_pinned_memory_is_host_memory_that_copies_both_ways(device: un.Device) -> None:
    pinned = un.empty_pinned((100, 10), un.float32, device)
    assert pinned.device == "cpu"
    pinned.copy_(np.arange(1000, dtype=np.float32).reshape(100, 10))
    on_device = pinned.to(device, copy=True)
    pinned.fill_(0)
    pinned.copy_(on_device)
    np.testing.assert_array_equal(pinned.numpy(), np.arange(1000, dtype=np.float32).reshape(100, 10))


def test_a_pinned_tensor_without_elements(device: un.Device) -> None:
    assert un.empty_pinned(0, un.float32, device).size == 0
