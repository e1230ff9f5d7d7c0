"""Modules: compiled images, what is refused of them, and how long they live."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify import _errors as errors
from unify.testing import Kernel
from unify.testing.conformance.test_threads import run_in_threads


def count_up(out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, i + tl.program_id(0))


@pytest.fixture
def binary(kernel: Callable[[str], Kernel]) -> Kernel:
    """One of the suite's kernels, as the backend's spec has it."""
    return kernel("place")


def load(device: un.Device, binary: Kernel, *, image: bytes | None = None, name: str | None = None) -> object:
    if image is None and name is None:
        return binary.load(device)
    module = un.Module(binary.image if image is None else image, device, binary.name)
    types = binary.signature if binary.binary is None else None  # a compiler's images may take more than the kernel
    return module.function(name or binary.name, types, threads=binary.threads, shared_bytes=binary.shared_bytes)


def is_refused(load: Callable[[], object]) -> bool:
    """Whether loading fails with an error of ours. What else happens ends the test, or the process."""
    try:
        load()
    except errors.Error:
        return True
    return False


def test_an_image_loads_again_and_again(device: un.Device, binary: Kernel) -> None:
    functions = [load(device, binary) for _ in range(50)]
    assert len(set(map(id, functions))) == 50


def test_an_unknown_function_is_named(device: un.Device, binary: Kernel) -> None:
    with pytest.raises(errors.Error, match="no_such_kernel") as raised:
        load(device, binary, name="no_such_kernel")
    assert raised.value.device == device.name


@pytest.mark.parametrize("image", [b"", b"\0", b"text, and no image at all", bytes(4096)])
def test_what_is_no_image_is_refused(device: un.Device, binary: Kernel, image: bytes) -> None:
    with pytest.raises(errors.Error, match=binary.name):
        load(device, binary, image=image)


def test_an_image_of_another_target_is_refused(device: un.Device, binary: Kernel) -> None:
    machine = 0xB7 if binary.image[18:20] != b"\xb7\0" else 0x3E  # AArch64, x86-64: where an ELF file says so
    foreign = binary.image[:18] + machine.to_bytes(2, "little") + binary.image[20:]
    if binary.image[:4] != b"\x7fELF":
        pytest.skip(f"{device.name}: its images are no ELF files")
    with pytest.raises(errors.InvalidArgument):
        load(device, binary, image=foreign)


def test_a_truncated_image_is_refused_at_every_length(device: un.Device, binary: Kernel) -> None:
    image = binary.image
    lengths = sorted({*range(min(len(image), 128)), *range(0, len(image), 97)})
    accepted = [n for n in lengths if not is_refused(lambda n=n: load(device, binary, image=image[:n]))]
    assert accepted == []


def test_a_damaged_image_is_refused_or_loaded_and_never_worse(device: un.Device, binary: Kernel) -> None:
    generator = np.random.default_rng(7)
    interesting = np.array([0, 1, 2, 3, 4, 7, 8, 0x10, 0x7F, 0x80, 0xFF], np.uint8)
    refused = 0
    for _ in range(1500):
        image = np.frombuffer(binary.image, np.uint8).copy()
        for _ in range(int(generator.integers(1, 6))):
            image[generator.integers(0, len(image))] = generator.choice(interesting)
        refused += is_refused(lambda image=image: load(device, binary, image=image.tobytes()))
    assert refused > 0


def test_a_section_of_no_kind_is_not_read_beyond_the_image(device: un.Device, binary: Kernel) -> None:
    image = bytearray(binary.image)
    if image[:5] != b"\x7fELF\x02":
        pytest.skip(f"{device.name}: its images are no 64-bit ELF files")
    headers, count = int.from_bytes(image[40:48], "little"), int.from_bytes(image[60:62], "little")
    for index in range(count):  # SHT_NULL, loaded (SHF_ALLOC), far behind the end
        header = headers + 64 * index
        image[header + 4 : header + 8] = (0).to_bytes(4, "little")
        image[header + 8 : header + 16] = (2).to_bytes(8, "little")
        image[header + 24 : header + 32] = (1 << 40).to_bytes(8, "little")
        image[header + 32 : header + 40] = (1 << 20).to_bytes(8, "little")
    with pytest.raises(errors.Error):
        load(device, binary, image=bytes(image))


def test_images_are_loaded_and_dropped_by_many_threads(device: un.Device, binary: Kernel) -> None:
    def work(number: int) -> None:
        for _ in range(20):
            load(device, binary)

    run_in_threads(work)


@pytest.mark.usefixtures("target")
def test_a_kernel_that_is_dropped_outlives_its_launch(device: un.Device, stream: un.Stream) -> None:
    for _ in range(10):
        large, out = un.empty(1 << 22, un.uint8, device, stream=stream), un.zeros(16, un.int32, device, stream=stream)
        kernel = un.jit(count_up)
        for value in range(10):
            large.fill_(value, stream=stream)  # what the launch stands behind
        kernel[(1,)](out, BLOCK=16, stream=stream)
        del kernel
        gc.collect()
        with stream:
            assert out.tolist() == list(range(16))
