"""MLIR's generic text to dataclasses. Triton's own parser says whether anything was lost or misread."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton._C.libtriton import ir

from unify.compiler import Specialization, mlir, to_ttir
from unify.compiler.mlir_reader import parse
from unify.errors import CompileError


def ttir(kernel: Any, types: dict[str, str], **constants: Any) -> str:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    specialization = Specialization(signature, constants, frozenset(n for n, t in types.items() if t[0] == "*"))
    return to_ttir(kernel, specialization, num_warps=4, num_stages=3, debug=True)


# ---- the way back, which only this test needs


class Printer:
    """A module in generic form, without locations."""

    def __init__(self) -> None:
        self.names: dict[mlir.Value, str] = {}
        self.labels: dict[mlir.Block, str] = {}

    def name(self, value: mlir.Value) -> str:
        return self.names.setdefault(value, f"%v{len(self.names)}")

    def label(self, block: mlir.Block) -> str:
        return self.labels.setdefault(block, f"^b{len(self.labels)}")

    def operation(self, op: mlir.Operation) -> str:
        results = ", ".join(map(self.name, op.results)) + " = " if op.results else ""
        successors = f"[{', '.join(map(self.label, op.successors))}]" if op.successors else ""
        regions = f" ({', '.join(map(self.region, op.regions))})" if op.regions else ""
        # This attribute is what makes Triton print the generic form.
        entries = [entry(name, a) for name, a in op.attributes.items() if name != "llvm.data_layout"]
        attributes = f" {{{', '.join(entries)}}}" if entries else ""
        inputs = ", ".join(str(value.type) for value in op.operands)
        outputs = ", ".join(str(value.type) for value in op.results)
        operands = ", ".join(map(self.name, op.operands))
        return f'{results}"{op.name}"({operands}){successors}{regions}{attributes} : ({inputs}) -> ({outputs})\n'

    def region(self, region: mlir.Region) -> str:
        return "{\n" + "".join(map(self.block, region.blocks)) + "}"

    def block(self, block: mlir.Block) -> str:
        arguments = ", ".join(f"{self.name(value)}: {value.type}" for value in block.arguments)
        return f"{self.label(block)}({arguments}):\n" + "".join(map(self.operation, block.operations))


def entry(name: str, attribute: mlir.Attribute) -> str:
    if attribute is True and name in ("allow_reorder", "efficient_layout", "tt.flatten"):  # unit attributes
        return f'"{name}"'
    if name == "callee":
        return f'"{name}" = @{attribute}'
    return f'"{name}" = {text_of(attribute)}'


def text_of(attribute: mlir.Attribute) -> str:
    if isinstance(attribute, bool):
        return str(attribute).lower()
    if isinstance(attribute, str):
        return '"' + "".join(c if c.isalnum() else f"\\{byte:02X}" for c in attribute for byte in c.encode()) + '"'
    if isinstance(attribute, mlir.Raw):
        return attribute.text
    if isinstance(attribute, mlir.Typed):
        return f"{number(attribute.value, attribute.type)} : {attribute.type}"
    if isinstance(attribute, mlir.Dense):
        element = attribute.type.element if isinstance(attribute.type, mlir.Tensor) else attribute.type
        values = ", ".join(number(value, element) for value in attribute.values)
        return f"dense<{values if attribute.is_splat else f'[{values}]'}> : {attribute.type}"
    if isinstance(attribute, mlir.Array):
        values = ", ".join(number(value, attribute.element) for value in attribute.values)
        return f"array<{attribute.element}{': ' * bool(values)}{values}>"
    if isinstance(attribute, list):
        return f"[{', '.join(map(text_of, attribute))}]"
    if isinstance(attribute, dict):
        return f"{{{', '.join(entry(*item) for item in attribute.items())}}}"
    return str(attribute)


def number(value: float, type_: mlir.Type) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return f"{value:.20e}"
    wide = struct.unpack("<I", struct.pack("<f", value))[0]
    double = struct.unpack("<Q", struct.pack("<d", value))[0]
    return {"f64": f"0x{double:016X}", "f32": f"0x{wide:08X}", "bf16": f"0x{wide >> 16:04X}"}[str(type_)]


def without_locations(text: str) -> str:
    text = re.sub(r"^#loc.*\n?", "", text, flags=re.MULTILINE)
    return re.sub(r""" loc\(([^()"]|"[^"]*"|\([^()]*\))*\)""", "", text)


def read_by_triton(text: str, folder: Path) -> str:
    """What Triton prints of a text that it has read."""
    context = ir.context()
    ir.load_dialects(context)
    path = folder / "module.mlir"
    path.write_text(text)
    module = ir.parse_mlir_module(str(path), context)
    return without_locations(str(module))


# ---- kernels


@triton.jit
def elementwise(x, out, n, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i, mask=i < n, other=float("-inf"))
    value = tl.where(value != value, float("nan"), tl.exp(value) * 1e-30 + 3.4e38)
    tl.store(out + i, value.to(tl.bfloat16) + 0.1, mask=i < n)


@triton.jit
def loops(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    total, count = tl.zeros([N], tl.float32), 0
    for start in range(0, n, N):
        if start + N <= n:
            total += tl.load(x + start + i)
        else:
            total += tl.load(x + start + i, mask=start + i < n, other=0.0)
        count += 1
    while count > 3:
        count -= 2
        total *= 2
    tl.store(out + i, total * count)


@triton.jit
def branches(x, out, n):
    value = tl.load(x)
    if value > 0:
        tl.store(out, 1)
        return
    if n > 5:
        tl.store(out, 2)
        return
    tl.store(out, 3)


@triton.jit
def add_and_count(a, b, c, d):
    return a + c, b + d


@triton.jit
def reductions(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tile = tl.load(x + i[:, None] * N + i[None, :])
    highest, place = tl.max(tile, 1, return_indices=True)
    total, count = tl.reduce((tile, i[:, None] + tl.zeros([N, N], tl.int32)), 0, add_and_count)
    tl.store(out + i, highest + place + total + count + tl.cumsum(tl.sum(tile, 0)))


@triton.jit
def products(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    place = i[:, None] * N + i[None, :]
    tile = tl.dot(tl.load(x + place), tl.trans(tl.load(y + place)), input_precision="ieee")
    left, right = tl.split(tl.reshape(tile, [N, N // 2, 2]))
    tl.store(out + place, tl.reshape(tl.join(right, left), [N, N]))


@triton.jit
def atomics(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    old = tl.atomic_add(out + i % 4, tl.load(x + i), mask=i < n)
    tl.atomic_cas(out, 1, 2)
    tl.device_print('said "\\" and %d', old)
    tl.device_assert(i < n, "above\t90°")
    tl.store(x + i, tl.inline_asm_elementwise("nop // $0", "=r,r", [i], tl.int32, True, 1))


@triton.jit
def integers(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    value = tl.where((value > -9223372036854775808) & (i != 3), value // 7 % 5, 9223372036854775807)
    tl.store(out + i, tl.clamp(value.to(tl.float32), -1.5, 2.5), mask=tl.full([N], True, tl.int1))


KERNELS = {
    "elementwise": (elementwise, {"x": "*fp32", "out": "*bf16", "n": "i32"}, {"N": 64}),
    "elementwise-double": (elementwise, {"x": "*fp64", "out": "*bf16", "n": "i64"}, {"N": 64}),
    "loops": (loops, {"x": "*fp32", "out": "*fp32", "n": "i32"}, {"N": 16}),
    "branches": (branches, {"x": "*i32", "out": "*i32", "n": "i32"}, {}),
    "reductions": (reductions, {"x": "*fp32", "out": "*fp32"}, {"N": 16}),
    "products": (products, {"x": "*bf16", "y": "*bf16", "out": "*fp32"}, {"N": 16}),
    "atomics": (atomics, {"x": "*i32", "out": "*i32", "n": "i32"}, {"N": 16}),
    "integers": (integers, {"x": "*i64", "out": "*fp32"}, {"N": 16}),
}


@pytest.fixture(params=KERNELS)
def text(request: pytest.FixtureRequest) -> str:
    kernel, types, constants = KERNELS[request.param]
    return ttir(kernel, types, **constants)


def test_what_was_read_is_what_triton_reads(text: str, tmp_path: Path) -> None:
    text = re.sub(r'"?llvm.data_layout"? = "not a layout"(, )?', "", without_locations(text))
    again = Printer().operation(parse(text).operation)
    assert read_by_triton(again, tmp_path) == read_by_triton(text, tmp_path)


def test_every_operation_knows_its_line(text: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    for function in parse(text).functions:
        for operation in mlir.walk(function):
            if operation.name in ("tt.load", "tt.store", "tt.dot", "tt.atomic_rmw", "scf.for", "scf.while", "tt.print"):
                assert operation.location.file == __file__
                keyword = operation.name.partition(".")[2].replace("rmw", "add")
                assert keyword in lines[operation.location.line - 1]


def test_a_value_is_defined_once_and_knows_where(text: str) -> None:
    for operation in mlir.walk(parse(text).operation):
        for place, value in enumerate(operation.results):
            assert (value.owner, value.index) == (operation, place)
        for value in operation.operands:
            assert value.owner is not None
            defined = value.owner.results if isinstance(value.owner, mlir.Operation) else value.owner.arguments
            assert defined[value.index] is value


def test_a_text_that_ends_early_is_an_error(text: str) -> None:
    end = text.rindex("}) ")  # of the module; what follows are aliases of locations
    for cut in range(0, end, max(1, end // 60)):
        with pytest.raises(CompileError, match=r"MLIR text, line \d+: "):
            parse(text[:cut])


# ---- literals, as MLIR's printer writes them


def constant(literal: str) -> Any:
    text = f'"builtin.module"() ({{ %0 = "arith.constant"() <{{value = {literal}}}> : () -> i1 }}) : () -> ()'
    (operation,) = parse(text).operation.regions[0].entry.operations
    return operation.attributes["value"]


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("-7 : i32", -7), ("true", True), ("1.500000e+00 : f32", 1.5), ("-2.5E-3 : f64", -2.5e-3),
        ("0x7F800000 : f32", math.inf), ("0xFF80 : bf16", -math.inf), ("0x3C01 : f16", 1.0009765625),
        ("0x8000000000000000 : f64", -0.0), ("0xFF : i8", 255), ("-9223372036854775808 : i64", -(2**63)), ("3", 3),
    ],
)  # fmt: skip
def test_numbers(literal: str, value: float) -> None:
    found = constant(literal)
    found = found.value if isinstance(found, mlir.Typed) else found
    assert found == value
    assert math.copysign(1, found) == math.copysign(1, value)


def test_a_nan_keeps_being_one() -> None:
    assert math.isnan(constant("0x7FC0 : bf16").value)


@pytest.mark.parametrize(
    ("literal", "values"),
    [
        ("dense<1> : tensor<4xi32>", (1,)),
        ("dense<[[1, 2], [3, 4]]> : tensor<2x2xi32>", (1, 2, 3, 4)),
        ("dense<[true, false]> : tensor<2xi1>", (True, False)),
        ('dense<"0x0000803F000000C0"> : tensor<2xf32>', (1.0, -2.0)),
        ('dense<"0xFFFF0100"> : tensor<2xi16>', (-1, 1)),
        ('dense<"0x803F00C0"> : tensor<2xbf16>', (1.0, -2.0)),
        ("dense<0xFF800000> : tensor<8xf32>", (-math.inf,)),
        ("array<i32: 2, 1, 0>", (2, 1, 0)),
        ("array<i32>", ()),
    ],
)
def test_lists_of_numbers(literal: str, values: tuple[float, ...]) -> None:
    assert constant(literal).values == values


def test_strings_and_what_has_no_class() -> None:
    assert constant(r'"a \"b\" \\ \0A\C2\B0"') == 'a "b" \\ \n°'
    assert constant("#arith.overflow<nsw, nuw>") == mlir.Raw("#arith.overflow<nsw, nuw>")
    assert constant("[1 : i32, {a, b = 2.0 : f32}]") == [
        mlir.Typed(1, mlir.Scalar("i32")),
        {"a": True, "b": mlir.Typed(2.0, mlir.Scalar("f32"))},
    ]


@pytest.mark.parametrize(
    "type_",
    [
        "i1", "f8E4M3FN", "index", "!tt.ptr<f32>", "!tt.ptr<!tt.ptr<i8>>", "!tt.ptr<f32, 3>", "tensor<16x32xf32>",
        "tensor<4x!tt.ptr<bf16>>", "!tt.tensordesc<tensor<16x16xf32>>", "(i32, f32) -> ()", "() -> i32",
        "(tensor<2xi1>) -> (i32, i32)", "tensor<?x4xf32>", "memref<f32>", "memref<?xi8>", "memref<4x1x16xi1>",
        "memref<?x128xf16, strided<[?, 1], offset: ?>>", "memref<64xf32, strided<[2]>>",
    ],
)  # fmt: skip
def test_types_read_and_print(type_: str) -> None:
    assert str(constant(type_)) == type_


def test_a_buffer_knows_its_layout() -> None:
    unknown = mlir.DYNAMIC
    found = constant("memref<?x8xf16, strided<[?, 1], offset: ?>, #hivm.address_space<gm>>")
    assert found == mlir.Buffer((unknown, 8), mlir.Scalar("f16"), (unknown, 1), unknown)
    assert constant("memref<8xf16>") == mlir.Buffer((8,), mlir.Scalar("f16"))


def test_attributes_that_a_module_names_in_front_are_kept() -> None:
    text = '#map = affine_map<(d0) -> (d0)>\n"builtin.module"() ({\n}) : () -> () loc(#loc)\n#loc = loc(unknown)\n'
    assert parse(text).aliases == {"#map": "affine_map<(d0) -> (d0)>"}


def test_address_spaces_have_names_since_triton_3_9() -> None:
    assert constant('!tt.ptr<f32, "constant">') == mlir.Pointer(mlir.Scalar("f32"), 4)
    assert constant('!tt.ptr<f32, "global">') == mlir.Pointer(mlir.Scalar("f32"))
    with pytest.raises(CompileError, match="one of global, descriptor, constant"):
        constant('!tt.ptr<f32, "elsewhere">')


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ('loc("f.py":3:7)', "f.py:3"),
        ("loc(unknown)", "unknown location"),
        ('loc("x"("f.py":3:7))', "f.py:3"),
        ('loc(callsite("callee.py":3:7 at "caller.py":9:1))', "callee.py:3"),
        ('loc(fused["a.py":1:2, "b.py":3:4])', "a.py:1"),
        ("loc(#loc2)", "g.py:12"),
        ("loc(#loc1)", "g.py:12"),
        ("loc(#missing)", "unknown location"),
        (r'loc("a \22b\22 (c).py":3:7)', 'a "b" (c).py:3'),
    ],
)
def test_locations(location: str, place: str) -> None:
    aliases = '\n#loc1 = loc(callsite(#loc2 at #loc3))\n#loc2 = loc("g.py":12:1)\n#loc3 = loc("h.py":4:1)\n'
    text = f'"builtin.module"() ({{ "tt.return"() : () -> () {location} }}) : () -> ()'
    for whole in (text + aliases, aliases + text):
        (operation,) = parse(whole).operation.regions[0].entry.operations
        assert str(operation.location) == place


@pytest.mark.parametrize("text", ["", "module {}", '"tt.func"() : () -> ()', '"builtin.module"() ({}) : () -> () }'])
def test_what_is_no_module_in_generic_form_is_refused(text: str) -> None:
    with pytest.raises(CompileError, match="MLIR text, line 1"):
        parse(text)
