"""What is computed where it is read, and what must not be."""

from __future__ import annotations

from unify.compiler import mlir, mlir_reader
from unify.simulator.emulator.memory import plan

HEAD = """#rows = affine_map<(d0, d1) -> (d0)>
#all = affine_map<(d0, d1) -> (d0, d1)>
#left = affine_map<(d0, d1, d2) -> (d0, d2)>
#result = affine_map<(d0, d1, d2) -> (d0, d1)>
"builtin.module"() ({
  "func.func"() <{sym_name = "k"}> ({
  ^bb0(%out: memref<?xf32>):
    %x = "memref.alloc"() : () -> memref<8xf32>
    %t = "memref.alloc"() : () -> memref<8x16xf32>
    %u = "memref.alloc"() : () -> memref<8x16xf32>
    %y = "memref.alloc"() : () -> memref<8xf32>
"""
TAIL = """    "func.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
"""
PARALLEL, REDUCTION = "#linalg.iterator_type<parallel>", "#linalg.iterator_type<reduction>"


def generic(source: tuple[str, str], target: tuple[str, str], compute: str, last: str = PARALLEL) -> str:
    """One input and one output with their maps; compute: an operation on %in."""
    types = {"x": "memref<8xf32>", "y": "memref<8xf32>", "t": "memref<8x16xf32>", "u": "memref<8x16xf32>"}
    return f"""
    "linalg.generic"(%{source[0]}, %{target[0]}) <{{
      indexing_maps = [#{source[1]}, #{target[1]}], iterator_types = [{PARALLEL}, {last}],
      operandSegmentSizes = array<i32: 1, 1>
    }}> ({{
    ^bb0(%in: f32, %old: f32):
      {compute}
      "linalg.yield"(%v) : (f32) -> ()
    }}) : ({types[source[0]]}, {types[target[0]]}) -> ()
"""


DOUBLED = '%v = "arith.addf"(%in, %in) : (f32, f32) -> f32'
POWER = '%v = "math.exp"(%in) : (f32) -> f32'
SUM = '%v = "arith.addf"(%in, %old) : (f32, f32) -> f32'


def melted(body: str) -> list[int]:
    """The numbers, among all linalg.generic, of those that are not written out."""
    module = mlir_reader.parse(HEAD + body + TAIL)
    (function,) = module.operation.regions[0].entry.operations
    generics = [op for op in mlir.walk(function) if op.name == "linalg.generic"]
    readers = plan(function, module.aliases).melted.readers
    return [i for i, op in enumerate(generics) if op in readers]


SPREAD = generic(("x", "rows"), ("t", "all"), DOUBLED)
READ = generic(("t", "all"), ("u", "all"), DOUBLED)
STORE = '"memref.copy"(%u, %u) : (memref<8x16xf32>, memref<8x16xf32>) -> ()'
CHANGE = '"memref.copy"(%u, %x) : (memref<8x16xf32>, memref<8xf32>) -> ()'


def test_a_broadcast_is_computed_by_its_reader() -> None:
    assert melted(SPREAD + READ + STORE) == [0]


def test_it_is_if_there_are_two_readers_and_it_is_cheap() -> None:
    assert melted(SPREAD + READ + READ + STORE) == [0]
    dear = generic(("x", "rows"), ("t", "all"), POWER)
    assert melted(dear + READ + STORE) == [0]
    assert melted(dear + READ + READ + STORE) == []


def test_not_if_its_source_changes_before_it_is_read() -> None:
    assert melted(SPREAD + CHANGE + READ + STORE) == []


def test_not_if_somebody_else_reads_the_result() -> None:
    assert melted(SPREAD + READ + '"memref.copy"(%t, %u) : (memref<8x16xf32>, memref<8x16xf32>) -> ()') == []


def test_not_what_a_reduction_adds_to() -> None:
    total = generic(("t", "all"), ("x", "rows"), SUM, REDUCTION)
    first = generic(("u", "all"), ("t", "all"), DOUBLED)
    assert melted(STORE + first + total) == [0]  # what it sums is computed there
    assert melted(total) == []


def test_not_into_what_reads_each_element_many_times() -> None:
    product = f"""
    "linalg.generic"(%t, %u) <{{
      indexing_maps = [#left, #result], iterator_types = [{PARALLEL}, {PARALLEL}, {REDUCTION}],
      operandSegmentSizes = array<i32: 1, 1>
    }}> ({{
    ^bb0(%in: f32, %old: f32):
      {SUM}
      "linalg.yield"(%v) : (f32) -> ()
    }}) : (memref<8x16xf32>, memref<8x16xf32>) -> ()
"""
    assert melted(SPREAD + product + STORE) == []


def test_a_chain_melts_into_its_end() -> None:
    assert melted(SPREAD + READ + generic(("u", "all"), ("y", "rows"), SUM, REDUCTION)) == [0, 1]
    # This sum writes what the broadcast reads: it must not be behind it.
    assert melted(SPREAD + READ + generic(("u", "all"), ("x", "rows"), SUM, REDUCTION)) == [1]
