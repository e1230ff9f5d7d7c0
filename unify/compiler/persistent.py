"""Kernels for large grids as a block for each core with a loop over the programs: the same TTIR, one loop around it.

For chips whose grids are small and whose blocks are slow to start (Triton-Ascend, programming_guide: "the grid should
equal the number of physical cores").
"""

from __future__ import annotations

import re

_FUNCTION = re.compile(r'^( *)"tt\.func"\(\) <\{(.*)\}> \(\{.*$')
_PROGRAM = re.compile(r'"tt\.get_(program_id|num_programs)"\(\) <\{axis = (\d) : i32\}>( \{.*\})? : \(\) -> i32')
_INTEGER = "(i32, i32) -> i32"
_FLAGS = "<{overflowFlags = #arith.overflow<none>}>"
# A block of the kernel itself, and how one ends that is followed by others. Nothing is handed over.
_LABEL = re.compile(r"^  \^(\w+)[:(]")
_BRANCH = re.compile(
    r'^ *"cf\.(?:cond_br"\((?P<condition>[^,)]+)\)|br"\(\))\[(?P<ways>[^\]]*)\]'
    r"(?: <\{operandSegmentSizes = array<i32: 1, 0, 0>\}>)? : "
)


def persistent(ttir: str) -> str | None:
    """Returns the module with its kernel's body in a loop, or None where its form does not allow one.

    ttir: in MLIR's generic form. The kernel gets three more parameters of type i32, the grid of its programs; what it
    is launched with is then the number of blocks, on the first axis. Program n of the grid (x is the fastest axis) is
    done by block n modulo the number of blocks, in the order of n. What follows an early return is put under the
    opposite condition. Kernels whose ways join again after one stay as they are, those that have calls, and those that
    never ask which program they are.
    """
    if ttir.count('"tt.func"') != 1 or "_program_id" not in ttir:
        return None
    lines = _without_jumps(ttir.splitlines())
    if lines is None:
        return None
    start = next(number for number, line in enumerate(lines) if '"tt.func"' in line)
    end = next(number for number, line in enumerate(lines) if '"tt.return"' in line)
    function, entry = _FUNCTION.match(lines[start]), lines[start + 1]
    if function is None or not entry.lstrip().startswith("^bb0(") or not entry.rstrip().endswith("):"):
        return None
    lines[start] = lines[start].replace(function[2], _with_grid(function[2]), 1)
    lines[start + 1] = entry.rstrip()[:-2] + "".join(f", %unify_grid_{axis}: i32" for axis in "xyz") + "):"
    body = [_PROGRAM.sub(_of_this_program, line) for line in lines[start + 2 : end]]
    if any(name in line for line in body for name in ("tt.get_program_id", "tt.get_num_programs")):
        return None
    around = '    "scf.for"(%unify_first, %unify_all, %unify_blocks) ({'
    closing = ['    "scf.yield"() : () -> ()', "    }) : (i32, i32, i32) -> ()"]
    loop = [*_before(), around, "    ^bb0(%unify_program: i32):", *_inside(), *body, *closing]
    return "\n".join([*lines[: start + 2], *loop, *lines[end:]]) + "\n"


def _without_jumps(lines: list[str]) -> list[str] | None:
    """The module with nested scf.if in place of a kernel's blocks, or None where a block is reached in several ways."""
    start = next(number for number, line in enumerate(lines) if '"tt.func"' in line)
    end = max(number for number, line in enumerate(lines) if '"tt.return"' in line)
    blocks, name = {"": list[str]()}, ""
    for line in lines[start + 2 : end + 1]:
        label = _LABEL.match(line)
        if label is not None:
            name = label[1]
            blocks[name] = []
        else:
            blocks[name].append(line)
    left = dict.fromkeys((name for name, block in blocks.items() if len(block) > 1), 1)  # a bare return may be copied

    def of(name: str) -> list[str] | None:
        if left.get(name, 1) == 0:
            return None
        if name in left:
            left[name] -= 1
        *body, last = blocks[name]
        if '"tt.return"' in last:
            return body
        branch = _BRANCH.match(last)
        if branch is None:
            return None
        ways = [of(way.strip()) for way in branch["ways"].replace("^", "").split(",")]
        if any(way is None for way in ways):
            return None
        first, *other = (way for way in ways if way is not None)
        if not other:
            return [*body, *first]
        end_of_way = '"scf.yield"() : () -> ()'
        opening, closing = f'"scf.if"({branch["condition"]}) ({{', "}) : (i1) -> ()"
        return [*body, opening, *first, end_of_way, "}, {", *other[0], end_of_way, closing]

    body = of("")
    if body is None or any('"cf.' in line for line in body):
        return None
    return [*lines[: start + 2], *body, *lines[end:]]


def _with_grid(properties: str) -> str:
    """The function's properties, with three parameters more."""
    properties = re.sub(r"function_type = \((.*?)\) -> \(\)", _longer_type, properties, count=1)
    return re.sub(r"arg_attrs = \[(.*?)\]", r"arg_attrs = [\1, {}, {}, {}]", properties, count=1)


def _longer_type(found: re.Match[str]) -> str:
    return f"function_type = ({found[1]}, i32, i32, i32) -> ()"


def _of_this_program(found: re.Match[str]) -> str:
    kind = "id" if found[1] == "program_id" else "grid"
    return f'"arith.addi"(%unify_{kind}_{"xyz"[int(found[2])]}, %unify_zero) {_FLAGS}{found[3] or ""} : {_INTEGER}'


def _before() -> list[str]:
    return [
        '    %unify_zero = "arith.constant"() <{value = 0 : i32}> : () -> i32',
        '    %unify_first = "tt.get_program_id"() <{axis = 0 : i32}> : () -> i32',
        '    %unify_blocks = "tt.get_num_programs"() <{axis = 0 : i32}> : () -> i32',
        f'    %unify_plane = "arith.muli"(%unify_grid_x, %unify_grid_y) {_FLAGS} : {_INTEGER}',
        f'    %unify_all = "arith.muli"(%unify_plane, %unify_grid_z) {_FLAGS} : {_INTEGER}',
    ]


def _inside() -> list[str]:
    return [
        f'    %unify_id_x = "arith.remsi"(%unify_program, %unify_grid_x) : {_INTEGER}',
        f'    %unify_row = "arith.divsi"(%unify_program, %unify_grid_x) : {_INTEGER}',
        f'    %unify_id_y = "arith.remsi"(%unify_row, %unify_grid_y) : {_INTEGER}',
        f'    %unify_id_z = "arith.divsi"(%unify_row, %unify_grid_y) : {_INTEGER}',
    ]
