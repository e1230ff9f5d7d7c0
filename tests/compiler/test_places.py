"""Whose line a location is: the user's, whatever was inlined there."""

from __future__ import annotations

from unify.compiler import mlir_reader
from unify.compiler.places import Place, Places, with_users_places

TEXT = """\
#loc = loc("/home/me/kernels.py":10:1)
#loc1 = loc("/venv/triton/language/standard.py":50:9)
#loc2 = loc("/home/me/kernels.py":12:5)
#loc3 = loc("/home/me/helpers.py":3:7)
#loc4 = loc("/tmp/x/kernel.ttir.mlir":4:2)
#loc5 = loc(unknown)
#loc6 = loc("v"(#loc2))
#loc7 = loc(callsite(#loc1 at #loc2))
#loc8 = loc(callsite(#loc3 at #loc2))
#loc9 = loc(callsite(#loc1 at #loc7))
#loc10 = loc(fused[#loc4, #loc6])
"""


def test_the_innermost_place_that_is_not_tritons() -> None:
    places = Places(TEXT)
    assert places.of("#loc2") == places.of("#loc6") == places.of("#loc10") == Place("/home/me/kernels.py", 12, 5)
    assert places.of("#loc7") == places.of("#loc9") == Place("/home/me/kernels.py", 12, 5, in_library=True)
    assert places.of("#loc8") == Place("/home/me/helpers.py", 3, 7)
    assert places.of('"/home/me/kernels.py":1:2') == Place("/home/me/kernels.py", 1, 2)


def test_what_is_nobodys_line() -> None:
    places = Places(TEXT)
    assert places.of("#loc4") is places.of("#loc5") is places.of("#loc99") is None


def test_locations_in_a_circle_end() -> None:
    assert Places("#loc1 = loc(fused[#loc2])\n#loc2 = loc(fused[#loc1])\n").of("#loc1") is None


def test_a_module_with_the_users_places() -> None:
    module = '"builtin.module"() ({\n  "a.b"() : () -> () loc(#loc7)\n  "a.c"() : () -> () loc(#loc8)\n}) : () -> ()\n'
    operations = mlir_reader.parse(with_users_places(module + TEXT)).operation.regions[0].entry.operations
    assert [str(operation.location) for operation in operations] == ["/home/me/kernels.py:12", "/home/me/helpers.py:3"]


def test_locations_may_stand_inside_of_others() -> None:
    places = Places(TEXT)
    assert places.of('callsite("/venv/triton/language/core.py":1:1 at #loc2)') == Place(
        "/home/me/kernels.py", 12, 5, in_library=True
    )
    assert places.of('"x"("/home/me/helpers.py":3:7)') == Place("/home/me/helpers.py", 3, 7)
