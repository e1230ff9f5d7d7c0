"""Places of temporaries: whose lives overlap, and what loops hand on."""

from __future__ import annotations

from unify.compiler import mlir, mlir_reader
from unify.simulator.emulator.memory import Carry, Plan, plan

TYPE = "memref<1024xf32>"


def planned(body: str) -> tuple[Plan, dict[str, mlir.Operation]]:
    """The plan of a function, and its operations by the names of their results."""
    module = mlir_reader.parse(f"""
"builtin.module"() ({{
  "func.func"() <{{sym_name = "k"}}> ({{
  ^bb0(%out: memref<?xf32>, %n: i32, %zero: i32, %one: i32):
    {body}
    "func.return"() : () -> ()
  }}) : () -> ()
}}) : () -> ()
""")
    (function,) = module.operation.regions[0].entry.operations
    operations = list(mlir.walk(function))
    return plan(function, module.aliases), {r.name: op for op in operations for r in op.results}


def alloc(name: str) -> str:
    return f'%{name} = "memref.alloc"() : () -> {TYPE}'


def copy(source: str, target: str) -> str:
    return f'"memref.copy"(%{source}, %{target}) : ({TYPE}, {TYPE}) -> ()'


def test_lives_that_do_not_overlap_share_memory() -> None:
    body = [alloc("a"), alloc("b"), alloc("c"), copy("a", "b"), copy("b", "c"), copy("c", "c")]
    found, ops = planned("\n".join(body))
    a, b, c = (found.places[ops[f"%{name}"]] for name in "abc")
    assert a.offset != b.offset != c.offset
    assert a.offset == c.offset
    assert found.bytes == 2 * 4096


def test_what_a_loop_reads_again_keeps_its_place() -> None:
    body = f"""{alloc("a")} {alloc("b")} {copy("a", "a")}
    "scf.for"(%zero, %n, %one) ({{
    ^bb0(%i: i32):
      {copy("a", "b")} {alloc("c")} {copy("b", "c")}
      "scf.yield"() : () -> ()
    }}) : (i32, i32, i32) -> ()"""
    found, ops = planned(body)
    a, b, c = (found.places[ops[f"%{name}"]] for name in "abc")
    # b is not made in the loop: what it held may be wanted in the next iteration.
    assert len({a.offset, b.offset, c.offset}) == 3


LOOP = """%r = "scf.for"(%zero, %n, %one, %a) ({{
    ^bb0(%i: i32, %old: {TYPE}):
      {body}
      "scf.yield"(%new) : ({TYPE}) -> ()
    }}) : (i32, i32, i32, {TYPE}) -> {TYPE}
    {after}"""


def carried(body: str, after: str = "") -> tuple[Plan, dict[str, mlir.Operation], Carry]:
    text = alloc("a") + copy("a", "a") + LOOP.format(TYPE=TYPE, body=body, after=after)
    found, ops = planned(text)
    return found, ops, Carry(ops["%r"], 0)


def test_a_loop_takes_over_its_start_and_what_replaces_it_in_place() -> None:
    found, ops, key = carried(alloc("new") + copy("old", "old") + copy("new", "new"))
    assert found.places[key] is found.places[ops["%a"]] is found.places[ops["%new"]]


def test_what_is_read_after_its_successor_is_begun_stays_apart() -> None:
    found, ops, key = carried(alloc("new") + copy("old", "new") + copy("old", "new"))
    assert found.places[key].offset != found.places[ops["%new"]].offset


def test_a_start_that_is_read_later_is_not_taken_over() -> None:
    found, ops, key = carried(alloc("new") + copy("new", "new"), copy("a", "r"))
    assert found.places[key].offset != found.places[ops["%a"]].offset


def test_values_that_change_places_go_through_a_spare_one() -> None:
    body = f"""{alloc("a")} {alloc("b")} {copy("a", "b")}
    %r:2 = "scf.for"(%zero, %n, %one, %a, %b) ({{
    ^bb0(%i: i32, %x: {TYPE}, %y: {TYPE}):
      "scf.yield"(%y, %x) : ({TYPE}, {TYPE}) -> ()
    }}) : (i32, i32, i32, {TYPE}, {TYPE}) -> ({TYPE}, {TYPE})
    {copy("r#0", "r#1")}"""
    found, ops = planned(body)
    loop = ops["%r#0"]
    keys = [Carry(loop, 0), Carry(loop, 1), Carry(loop, 0, is_spare=True), Carry(loop, 1, is_spare=True)]
    assert len({found.places[key].offset for key in keys}) == 4


def test_an_address_is_carried_as_one() -> None:
    body = """%r = "scf.for"(%zero, %n, %one, %out) ({
    ^bb0(%i: i32, %p: memref<?xf32>):
      %q = "memref.cast"(%p) : (memref<?xf32>) -> memref<?xf32>
      "scf.yield"(%q) : (memref<?xf32>) -> ()
    }) : (i32, i32, i32, memref<?xf32>) -> memref<?xf32>"""
    found, ops = planned(body)
    assert not found.is_carried(ops["%r"], 0)
    assert found.places == {}
