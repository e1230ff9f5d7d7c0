"""The loops that measure the machine do the work they are credited with."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from unify.bench import roofline


def test_the_reading_loop_reads_every_byte() -> None:
    engine = roofline._compile(roofline._READ_TEXT)
    read = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("read"))
    storage = np.random.default_rng(0).integers(0, 1 << 40, 4096 + 8, dtype=np.int64)
    start = -storage.ctypes.data % 64 // 8
    data = storage[start : start + 4096]
    assert read(data.ctypes.data, data.nbytes // 256) == data.sum()


@pytest.mark.parametrize("rows", [roofline._FP32, roofline._BF16, roofline._INT8])
def test_the_arithmetic_loop_keeps_one_instruction_for_each_sum(rows: tuple[roofline._Instruction, ...]) -> None:
    _, features = roofline._host()
    usable = [row for row in rows if row.feature in features]
    if not usable:
        pytest.skip(f"this processor has none of {[row.feature for row in rows]}")
    row = usable[0]
    assert roofline._first_that_compiles([roofline._peak_text(row, operand) for operand in row.operands]) is not None


def test_every_limit_is_a_positive_number_or_absent() -> None:
    limits = roofline.measure(1, buffer_bytes=1 << 20)
    for value in (limits.fp32_gflops, limits.read_gb_s, limits.copy_gb_s, limits.call_us):
        assert value > 0
    assert limits.bf16_gflops is None or limits.bf16_gflops > 0


def test_an_unknown_processor_still_has_an_fp32_limit_and_lacks_the_others() -> None:
    assert roofline._peak(roofline._FP32, set(), 1) is not None
    assert roofline._peak(roofline._BF16, set(), 1) is None


def test_tasks_that_run_together_are_timed_from_the_first_start_to_the_last_end() -> None:
    done: list[int] = []
    assert roofline._once_together([lambda: done.append(1), lambda: done.append(2)]) > 0
    assert sorted(done) == [1, 2]
