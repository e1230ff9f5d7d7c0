"""Writes which types and how many dimensions the vendor's operators take, as its documentation says, for the simulator.

python .ci/ascend_rules.py CHECKOUT...: checkouts of gitcode.com/cann/{ops-math,ops-nn,ops-cv,ops-transformer}, or of
their mirrors.

A rule must never refuse what a chip takes: where the documentation is vague, all that it may mean is allowed.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup

OUT = Path(__file__).resolve().parents[1] / "unify/simulator/operators/rules.inc"
CHIPS = {"kAtlasA2": "910b", "kAtlasA3": "A3", "kAtlasA5": "950"}  # the series of the 910B, the 910C and the 950
TYPES = {  # the documentation's words for aclDataType
    "FLOAT": "FLOAT", "FLOAT32": "FLOAT", "FLOAT16": "FLOAT16", "BFLOAT16": "BF16", "BF16": "BF16", "DOUBLE": "DOUBLE",
    "FLOAT64": "DOUBLE", "INT8": "INT8", "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "UINT8": "UINT8",
    "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64", "BOOL": "BOOL", "COMPLEX32": "COMPLEX32",
    "COMPLEX64": "COMPLEX64", "COMPLEX128": "COMPLEX128", "HIFLOAT8": "HIFLOAT8", "INT4": "INT4",
    "FLOAT8_E5M2": "FLOAT8_E5M2", "FLOAT8_E4M3FN": "FLOAT8_E4M3FN", "FLOAT8_E4M3": "FLOAT8_E4M3FN",
    "FLOAT8_E8M0": "FLOAT8_E8M0", "FLOAT4_E2M1": "FLOAT4_E2M1", "FLOAT4_E1M2": "FLOAT4_E1M2",
}  # fmt: skip
NAMED = re.compile(rf"(?<![A-Z0-9_])({'|'.join(TYPES)})(?![A-Z0-9_])")
AT_MOST = re.compile(r"(?:\d\s*[-~]|不超过|不大于|不高于|小于等于|≤)\s*(\d)\s*维?。?")
LEFT_OUT = re.compile(
    rf"(?P<who>[\w`、，,]*?)不支持(?P<types>(?:(?:{'|'.join(TYPES)})[、，,和\s]*)+)(?:数据类型)?[。；;，]?"
)


class Row(NamedTuple):
    """A row of a table of parameters."""

    types: set[str]
    at_most: int  # dimensions; 0: not said

    def or_as(self, other: Row) -> Row:
        """What either allows."""
        is_said = self.at_most and other.at_most
        return Row(self.types | other.types, max(self.at_most, other.at_most) if is_said else 0)


def read(checkout: Path) -> tuple[list[str], list[str]]:
    """The documentation and the sources of the operators' first phases in a checkout, with or without a work tree."""
    packed = subprocess.run(["git", "-C", checkout, "archive", "HEAD"], check=True, capture_output=True).stdout
    pages: list[str] = []
    sources: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            for pattern, kept in ((r"docs/aclnn[^/]*\.md$", pages), (r"op_api/aclnn[^/]*\.cpp$", sources)):
                if re.search(pattern, member.name) and (file := archive.extractfile(member)) is not None:
                    kept.append(file.read().decode())
    return pages, sources


def types_of_sources(sources: list[str]) -> dict[str, set[str]]:
    """The types that the source of a function names at all: the documentation forgets some."""
    found: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for function in set(re.findall(r"\b(aclnn\w+)GetWorkspaceSize\(", source)):
            found[function] |= {each for each in re.findall(r"\bDT_(\w+)", source) if each in TYPES.values()}
    return found


def prototypes(page: str) -> dict[str, list[tuple[str, str]]]:
    """Of each function of a page the (kind, name) of its parameters, but for the last two."""
    found = {}
    for name, text in re.findall(r"aclnnStatus\s+(aclnn\w+?)GetWorkspaceSize\s*\((.*?)\)", page, re.S):
        parameters = [re.findall(r"\w+", each.replace("const", "")) for each in text.split(",")]
        found[name] = [(each[0], each[-1]) for each in parameters[:-2] if len(each) >= 2]
    return found


def section(page: str, function: str) -> str:
    """What a page says of the first phase of a function."""
    parts = re.split(r"(?m)^##+ +", page)
    return next((part for part in parts if re.match(rf"{function}GetWorkspaceSize\b", part)), "")


def rows(text: str) -> dict[str, Row]:
    """By the parameter's name. The table may have several of a name, one for each chip: all of them together."""
    found: dict[str, Row] = {}
    for table in BeautifulSoup(text, "html.parser").find_all("table"):
        heads, *lines = [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")]
        if "数据类型" not in heads:
            continue
        for line in lines:
            if len(line) != len(heads):  # a cell over several rows
                continue
            cells = dict(zip(heads, line, strict=True))
            name = re.split(r"[（(\s]", line[0].strip(" \n`"))[0]
            said = AT_MOST.fullmatch(next((cells[head] for head in heads if "shape" in head), "").strip())
            row = Row({TYPES[each] for each in NAMED.findall(cells["数据类型"])}, int(said[1]) if said else 0)
            found[name] = row.or_as(found.get(name, row))
    return found


def left_out(text: str, chip: str) -> list[tuple[set[str], set[str]]]:
    """The sentences `A, B do not support TYPE, TYPE` about a chip: (names, types). No names: all parameters."""
    found = []
    for chips, note in re.findall(r'<!-- npu="([^"]*)"[^>]*-->(.*?)<!-- end', text, re.S):
        if CHIPS[chip] not in chips.split(","):
            continue
        note = re.sub(r"<term>.*?</term>|数据类型(?=不)|的|参数|入参|出参|[、：:]\s*(?=<term>)", "", note)
        for line in note.splitlines():
            said = LEFT_OUT.fullmatch(re.sub(r"^[\s:：、*-]*", "", line).strip())
            if said and not re.search("当|时|如果", said["who"]):
                names = set(filter(None, re.split(r"[、，,和与`]", said["who"])))
                found.append((names, {TYPES[each] for each in NAMED.findall(said["types"])}))
    return found


def added(text: str) -> set[str]:
    """The types of sentences like `TYPE is supported too`, about whichever parameter and chip."""
    prose = re.sub(r"<table.*?</table>", "", text, flags=re.S)
    lines = [line for line in prose.splitlines() if "支持" in line and "不支持" not in line]
    return {TYPES[each] for line in lines for each in NAMED.findall(line)}


def rules(page: str, in_source: dict[str, set[str]]) -> dict[tuple[str, str, str], Row]:
    """What a page and the sources say: by function, chip and parameter ("0 self")."""
    found = {}
    for function, parameters in prototypes(page).items():
        text = section(page, function)
        said = rows(text)
        for chip in CHIPS:
            notes = left_out(text, chip)
            for number, (kind, name) in enumerate(parameters):
                row = said.get(name)
                if row is None or not row.types or kind not in ("aclTensor", "aclTensorList"):
                    continue
                missing = set().union(*(types for names, types in notes if not names or name in names))
                types = (row.types | in_source[function]) - missing | added(text)
                found[function, chip, f"{number} {name}"] = Row(types, row.at_most)
    return found


def lines(found: dict[tuple[str, str, str], Row]) -> list[str]:
    """A line for what is the same of a function's parameters and of chips."""
    same = defaultdict(list)
    for (function, chip, parameter), row in found.items():
        same[function, parameter, " | ".join(sorted(row.types)), row.at_most or "kAny"].append(chip)
    merged = defaultdict(list)
    for (function, parameter, types, at_most), chips in same.items():
        merged[function, "kAll" if len(chips) == len(CHIPS) else " | ".join(chips), at_most, types].append(parameter)
    return sorted(
        f'RULE({function}, {chips}, "{", ".join(parameters)}", {at_most}, {types})'
        for (function, chips, at_most, types), parameters in merged.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="+", metavar="CHECKOUT")
    found: dict[tuple[str, str, str], Row] = {}
    for checkout in parser.parse_args().checkouts:
        pages, sources = read(checkout)
        in_source = types_of_sources(sources)
        for page in pages:
            for key, row in rules(page, in_source).items():
                found[key] = row.or_as(found.get(key, row))  # the same function may be on two pages
    OUT.write_text(
        "// Written by .ci/ascend_rules.py from the documentation of the vendor's operators: of a function, on these\n"
        "// chips, the parameters with their numbers, the most dimensions that they have, and their types.\n"
        "// clang-format off\n" + "\n".join(lines(found)) + "\n"
    )


if __name__ == "__main__":
    main()
