"""What this machine can do at most: arithmetic per core, memory bandwidth, the price of one native call.

The loops are written in LLVM IR and compiled by llvmlite, so that neither unify's compiler nor a peer's library sets
the limit they are measured against. Each figure is the best of several tries: a limit is what was reached once.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from unify._errors import UnsupportedError

# Past every last-level cache in common use, so that reads come from memory.
BUFFER_BYTES = 256 << 20
TRIES = 7
PEAK_SECONDS = 0.02


@dataclass(frozen=True)
class Roofline:
    """Limits of `threads` cores together; None where the processor lacks the instruction."""

    threads: int
    processor: str
    fp32_gflops: float
    bf16_gflops: float | None
    int8_gops: float | None
    read_gb_s: float
    copy_gb_s: float
    call_us: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


@dataclass(frozen=True)
class _Instruction:
    """One multiply-add: `name` is tried with each signature, since LLVM changed some between versions."""

    feature: str
    accumulator: str
    operands: tuple[str, ...]
    name: str
    work: int
    accumulators: int
    addend_first: bool


# Latency times throughput asks for 8 to 10 independent sums; 12 leave room for operands in 16 registers.
_FP32 = (
    _Instruction("avx512f", "<16 x float>", ("<16 x float>",), "llvm.fma.v16f32", 32, 16, False),
    _Instruction("fma", "<8 x float>", ("<8 x float>",), "llvm.fma.v8f32", 16, 12, False),
    _Instruction("", "<4 x float>", ("<4 x float>",), "llvm.fmuladd.v4f32", 8, 12, False),
)
_BF16 = (
    _Instruction("avx512bf16", "<16 x float>", ("<32 x bfloat>", "<16 x i32>"),
                 "llvm.x86.avx512bf16.dpbf16ps.512", 64, 16, True),
)  # fmt: skip
_INT8 = (
    _Instruction(
        "avx512vnni", "<16 x i32>", ("<64 x i8>", "<16 x i32>"), "llvm.x86.avx512.vpdpbusd.512", 128, 16, True
    ),
    _Instruction("avxvnni", "<8 x i32>", ("<32 x i8>", "<8 x i32>"), "llvm.x86.avx512.vpdpbusd.256", 64, 12, True),
)


def measure(threads: int, *, buffer_bytes: int = BUFFER_BYTES) -> Roofline:
    """Measures the limits of `threads` cores running at once. Takes about two seconds and `buffer_bytes` of memory."""
    processor, features = _host()
    fp32 = _peak(_FP32, features, threads)
    if fp32 is None:
        raise UnsupportedError(
            "roofline: no loop of fp32 multiply-adds compiles for this processor, so there is no limit to compare with."
        )
    read, copy = _bandwidth(threads, buffer_bytes)
    return Roofline(
        threads=threads,
        processor=processor,
        fp32_gflops=fp32,
        bf16_gflops=_peak(_BF16, features, threads),
        int8_gops=_peak(_INT8, features, threads),
        read_gb_s=read,
        copy_gb_s=copy,
        call_us=_call_cost(),
    )


def _host() -> tuple[str, set[str]]:
    import llvmlite.binding as llvm

    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    return llvm.get_host_cpu_name(), features


def _compile(text: str) -> Any:
    """An execution engine that owns the code; it has to outlive every call into it."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def _peak_text(row: _Instruction, operand: str) -> str:
    lanes = [f"%a{i}" for i in range(row.accumulators)]
    order = "{t} {a}, {o} %x, {o} %y" if row.addend_first else "{o} %x, {o} %y, {t} {a}"
    phis = "\n".join(f"  {a} = phi {row.accumulator} [ %seed, %entry ], [ {a}.next, %loop ]" for a in lanes)
    calls = "\n".join(
        f"  {a}.next = call {row.accumulator} @{row.name}({order.format(t=row.accumulator, a=a, o=operand)})"
        for a in lanes
    )
    stores = "\n".join(f"  store volatile {row.accumulator} {a}.next, ptr %out" for a in lanes)
    signature = [row.accumulator, operand, operand] if row.addend_first else [operand, operand, row.accumulator]
    # Operands and seed are loaded, so that nothing is known about them when the loop is compiled.
    return f"""
declare {row.accumulator} @{row.name}({", ".join(signature)})
define void @peak(i64 %n, ptr %out) {{
entry:
  %x = load volatile {operand}, ptr %out
  %y = load volatile {operand}, ptr %out
  %seed = load volatile {row.accumulator}, ptr %out
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{calls}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}
"""


def _peak(rows: Sequence[_Instruction], features: set[str], threads: int) -> float | None:
    """Thousand million operations per second of the widest instruction there is, on `threads` cores together."""
    for row in rows:
        if row.feature and row.feature not in features:
            continue
        engine = _first_that_compiles([_peak_text(row, operand) for operand in row.operands])
        if engine is None:
            continue
        return _steps_a_second(engine, threads) * row.accumulators * row.work / 1e9
    return None


def _steps_a_second(engine: Any, threads: int) -> float:
    loop = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("peak"))
    buffers = [ctypes.create_string_buffer(256) for _ in range(threads)]
    addresses = [(ctypes.addressof(buffer) + 127) & ~127 for buffer in buffers]
    steps = _steps_for(lambda n: loop(n, addresses[0]), PEAK_SECONDS)
    seconds = _best_together([partial(loop, steps, address) for address in addresses])
    return threads * steps / seconds


def _first_that_compiles(texts: Sequence[str]) -> Any | None:
    for text in texts:
        try:
            return _compile(text)
        except RuntimeError:  # llvmlite's word for text that this LLVM does not take
            continue
    return None


def _steps_for(run: Callable[[int], object], seconds: float) -> int:
    steps = 1 << 12
    while True:
        start = time.perf_counter()
        run(steps)
        if time.perf_counter() - start >= seconds:
            return steps
        steps *= 2


def _best_together(tasks: Sequence[Callable[[], object]]) -> float:
    """The shortest time in which all tasks, one thread each and started together, were done."""
    return min(_once_together(tasks) for _ in range(TRIES))


def _once_together(tasks: Sequence[Callable[[], object]]) -> float:
    barrier = threading.Barrier(len(tasks))
    spans: list[tuple[float, float]] = []

    def body(task: Callable[[], object]) -> None:
        barrier.wait()
        start = time.perf_counter()
        task()
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=body, args=(task,)) for task in tasks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


_READ_TEXT = """
define i64 @read(ptr %data, i64 %blocks) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %a0 = phi <8 x i64> [ zeroinitializer, %entry ], [ %b0, %loop ]
  %a1 = phi <8 x i64> [ zeroinitializer, %entry ], [ %b1, %loop ]
  %a2 = phi <8 x i64> [ zeroinitializer, %entry ], [ %b2, %loop ]
  %a3 = phi <8 x i64> [ zeroinitializer, %entry ], [ %b3, %loop ]
  %p0 = getelementptr [256 x i8], ptr %data, i64 %i
  %p1 = getelementptr i8, ptr %p0, i64 64
  %p2 = getelementptr i8, ptr %p0, i64 128
  %p3 = getelementptr i8, ptr %p0, i64 192
  %v0 = load <8 x i64>, ptr %p0, align 64
  %v1 = load <8 x i64>, ptr %p1, align 64
  %v2 = load <8 x i64>, ptr %p2, align 64
  %v3 = load <8 x i64>, ptr %p3, align 64
  %b0 = add <8 x i64> %a0, %v0
  %b1 = add <8 x i64> %a1, %v1
  %b2 = add <8 x i64> %a2, %v2
  %b3 = add <8 x i64> %a3, %v3
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %blocks
  br i1 %more, label %loop, label %done
done:
  %s0 = add <8 x i64> %b0, %b1
  %s1 = add <8 x i64> %b2, %b3
  %s = add <8 x i64> %s0, %s1
  %r = call i64 @llvm.vector.reduce.add.v8i64(<8 x i64> %s)
  ret i64 %r
}
declare i64 @llvm.vector.reduce.add.v8i64(<8 x i64>)
"""


def _bandwidth(threads: int, buffer_bytes: int) -> tuple[float, float]:
    """GB/s of reading, and of copying (bytes read and bytes written both counted)."""
    import numpy as np

    engine = _compile(_READ_TEXT)
    read = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("read"))
    storage = np.ones(buffer_bytes + 64, dtype=np.uint8)
    base = (storage.ctypes.data + 63) & ~63
    share = buffer_bytes // threads // 512 * 512
    starts = [base + i * share for i in range(threads)]
    half = share // 2
    read_s = _best_together([partial(read, start, share // 256) for start in starts])
    copy_s = _best_together([partial(ctypes.memmove, start + half, start, half) for start in starts])
    return threads * share / read_s / 1e9, threads * half * 2 / copy_s / 1e9


_CALL_TEXT = "define i32 @nothing(i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f, i64 %g, i64 %h) { ret i32 0 }"


def _call_cost() -> float:
    """µs that Python takes to call an empty native function with eight numbers through ctypes."""
    engine = _compile(_CALL_TEXT)
    nothing = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 8)(engine.get_function_address("nothing"))
    calls = range(20_000)

    def once() -> float:
        start = time.perf_counter()
        for _ in calls:
            nothing(1, 2, 3, 4, 5, 6, 7, 8)
        return time.perf_counter() - start

    return min(once() for _ in range(TRIES)) / len(calls) * 1e6
