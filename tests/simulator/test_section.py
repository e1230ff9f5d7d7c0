"""Sections added to ELF files: readable by others' tools, and nothing else changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from unify.errors import InvalidArgument
from unify.simulator.section import HEADER, HostKernel, empty_elf, host_section, with_section

from .driver import compiled, cubin


def test_another_tool_finds_the_section(tmp_path: Path) -> None:
    if shutil.which("objcopy") is None:
        pytest.skip("binutils are not here")
    original = compiled("add", ";")
    changed = with_section(with_section(original, ".first", b"one"), ".second", b"two" * 1000)
    (tmp_path / "changed.o").write_bytes(changed)
    for name, content in ((".first", b"one"), (".second", b"two" * 1000)):
        command = ["objcopy", "-O", "binary", f"--only-section={name}", "--set-section-flags", f"{name}=alloc"]
        subprocess.run([*command, tmp_path / "changed.o", tmp_path / "content"], check=True)
        assert (tmp_path / "content").read_bytes() == content
    assert changed[64 : len(original)] == original[64:]


def test_a_file_with_nothing_else_in_it_is_one_to_another_tool(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("binutils are not here")
    (tmp_path / "made.o").write_bytes(with_section(empty_elf(), ".unify.host", b"content"))
    command = ["readelf", "--file-header", "--section-headers", "--wide", tmp_path / "made.o"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stderr == ""
    assert ".shstrtab" in finished.stdout
    assert ".unify.host" in finished.stdout


@pytest.mark.parametrize("elf", [b"", b"\x7fELF", b"no" * 64, cubin()[:100], cubin()[:-1]])
def test_what_is_no_elf_file_is_refused(elf: bytes) -> None:
    with pytest.raises(InvalidArgument, match="with_section"):
        with_section(elf, ".x", b"")


def test_the_header_says_where_the_object_begins() -> None:
    content = host_section(HostKernel("kernel", b"object", 20, 128, [("*fp32", 0), ("i64", 8), ("u8", 16), ("i1", 17)]))
    magic, version, header_bytes, args_bytes, parameters, scratch, object_bytes, name_bytes, _ = HEADER.unpack_from(
        content
    )
    assert (magic, version, args_bytes, parameters, scratch, name_bytes) == (b"UNIFYHST", 1, 20, 4, 128, 6)
    assert content[header_bytes : header_bytes + object_bytes] == b"object"
    assert header_bytes % 64 == 0
    assert content[48 + 4 * 12 :][:6] == b"kernel"


def test_an_argument_of_an_unknown_type_is_named() -> None:
    with pytest.raises(InvalidArgument, match="'tensordesc<64>'"):
        host_section(HostKernel("kernel", b"", 8, 0, [("tensordesc<64>", 0)]))
