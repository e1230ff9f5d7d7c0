"""The vendor's IR, statement by statement, on a small piece of it; test_rules_lowered.py reads whole ones."""

from __future__ import annotations

from unify.check.lowered import Lowered, Memref, memref_of
from unify.compiler.places import Place

UB, GM = "#hivm.address_space<ub>", "#hivm.address_space<gm>"
TEXT = f"""\
module {{
  func.func @other() {{
    %0 = arith.constant 1 : i32 loc(#loc1)
  }} loc(#loc1)
  func.func @k(%arg0: memref<?xf32, {GM}> loc("/k.py":1:1)) attributes {{hacc.entry}} {{
    %c0 = arith.constant 0 : index loc(#loc1)
    %0 = hivm.hir.pointer_cast(%c0) : memref<256xf32, {UB}> loc(#loc2)
    scf.for %arg9 = %arg1 to %arg2 step %arg3  : i32 {{
      %cast = memref.cast %0 : memref<256xf32, {UB}> to memref<?xf32, strided<[?], offset: ?>, {UB}> loc(#loc2)
      func.call @_mlir_ciface_load_gm(%arg0, %cast) : (memref<?xf32, {GM}>, memref<?xf32, {UB}>) -> () loc(#loc2)
      scf.for %arg10 = %c0 to %c256 step %c1 {{
        %1 = memref.load %0[%arg10] : memref<256xf32, {UB}> loc(#loc2)
        %2 = arith.addf %1, %1 : f32 loc(#loc3)
      }} {{ExtractedLoadOrStore}} loc(#loc3)
      scf.if %5 {{
        %3 = arith.addi %arg9, %arg9 : i32 loc(#loc1)
      }} else {{
        %4 = arith.muli %arg9, %arg9 : i32 loc(#loc1)
      }} loc(#loc1)
    }} loc(#loc1)
    return loc(#loc1)
  }} loc(#loc1)
}} loc(#loc1)
#loc1 = loc("/k.py":1:1)
#loc2 = loc("/k.py":2:5)
#loc3 = loc("/k.py":3:5)
"""


def test_statements_know_their_line_and_the_loops_around_them() -> None:
    lowered = Lowered.of(TEXT)
    add = next(s for s in lowered.statements if s.name == "arith.addf")
    assert add.place == Place("/k.py", 3, 5)
    outer, inner = add.loops
    assert (outer.counter, outer.rounds, outer.place) == ("%arg9", None, Place("/k.py", 1, 1))
    assert (inner.counter, inner.rounds, inner.place) == ("%arg10", 256, Place("/k.py", 3, 5))
    multiplied = next(s for s in lowered.statements if s.name == "arith.muli")
    assert multiplied.loops == (outer,)
    assert next(s for s in lowered.statements if s.name == "return").loops == ()


def test_calls_and_where_their_memory_comes_from() -> None:
    lowered = Lowered.of(TEXT)
    (call,) = lowered.calls("load_gm")
    assert call.operands == ("%arg0", "%cast")
    root = lowered.root("%cast", call)
    assert root is not None
    assert root.name == "hivm.hir.pointer_cast"  # %0 of this function, not of the other one
    assert lowered.maker("%arg0", call) is None
    assert lowered.calls("store_gm") == []


def test_loops_over_elements_are_told_from_others() -> None:
    lowered = Lowered.of(TEXT)
    ((loop, body),) = lowered.scalar_loops()
    assert loop.counter == "%arg10"
    assert [statement.name for statement in body] == ["memref.load", "arith.addf"]


def test_types_of_memory() -> None:
    assert memref_of(f"x : memref<64x?xbf16, strided<[?, 1], offset: ?>, {GM}> to y") == Memref(
        (64, None), "bf16", (None, 1), "gm"
    )
    assert memref_of(f"memref<256xf32, {UB}>") == Memref((256,), "f32", None, "ub")
    assert memref_of("i32") is None


def test_nothing_has_no_statements() -> None:
    assert Lowered.of("").statements == []
