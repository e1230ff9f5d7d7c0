"""The report's figures: bars, numbers, files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unify._errors import InvalidArgument, UnsupportedError
from unify.bench import Comparison, plot


def row(ratio: float, *, is_noisy: bool = False, **fields: bool) -> Comparison:
    return Comparison(
        case="gemm-fp32-512", ours=115.7 * ratio, peer=115.7, unit="GFLOP/s", ratio=ratio, ratio_min=ratio * 0.9,
        ratio_max=ratio * 1.1, ratio_q1=ratio * 0.98, ratio_q3=ratio * 1.02, peer_name="torch", peer_version="2.13.0",
        threads=1, device="cpu", repeats=15, is_noisy=is_noisy, neighbour_cores=0.0, limit_fraction=0.5,
        largest_difference=1e-6, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "left", "right"), [(1.0, 0, 0), (2.0, 0, 5), (0.5, 5, 0), (4.0, 0, 10), (100.0, 0, 10), (0.001, 10, 0)]
)
def test_a_bar_grows_from_the_middle_by_the_logarithm(ratio: float, left: int, right: int) -> None:
    before, after = plot.bar(ratio).split("│")
    assert (before.count("█"), after.count("█")) == (left, right)
    assert len(before) == len(after) == plot.BAR_CELLS // 2


@pytest.mark.parametrize(
    ("value", "text"), [(0.7168, "0.717"), (115.71, "116"), (1088.2, "1088"), (9.994, "9.99"), (0.0, "0.0")]
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert plot.number(value) == text


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_figure_is_written_in_the_format_of_its_ending(tmp_path: Path, ending: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with `make bench`")
    path = tmp_path / f"figure{ending}"
    plot.save([row(0.5), row(1.3)], path, "a machine")
    assert path.read_bytes().startswith(magic)


def test_a_noisy_ratio_says_so_before_its_number_and_has_no_colour_of_success() -> None:
    shown = plot.table([row(790.0, is_noisy=True), row(1.3)])
    assert list(shown.columns[4].cells) == ["[dim]noisy 790.00×[/]", "[green]1.30×[/]"]
    assert str(next(iter(shown.columns[7].cells))).startswith("[dim]")


def test_a_simulated_device_is_named_in_the_table_and_in_the_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with `make bench`")
    rows = [row(0.5, simulated=True), row(1.3)]
    assert list(plot.table(rows).columns[0].cells) == ["gemm-fp32-512 (simulated)", "gemm-fp32-512"]
    plot.save(rows, tmp_path / "figure.svg", "a machine")
    assert (tmp_path / "figure.svg").read_text().count("(simulated)") == 1  # matplotlib keeps the text as a comment


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"matplotlib.*make bench"):
        plot.save([row(1.0)], tmp_path / "figure.png", "a machine")


@pytest.mark.parametrize("name", ["a-folder.svg", "no-folder/x.svg", "a-file/x.svg", "/proc/x.svg"])
def test_a_figure_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-folder.svg").mkdir()
    (tmp_path / "a-file").write_text("")
    with pytest.raises(InvalidArgument, match=r"--plot .*\.svg: it cannot be written: "):
        plot.check(tmp_path / name)


def test_the_check_leaves_what_is_there_as_it_is(tmp_path: Path) -> None:
    old = tmp_path / "old.svg"
    old.write_text("a figure")
    plot.check(old)
    plot.check(tmp_path / "new.svg")
    assert old.read_text() == "a figure"
    assert list(tmp_path.iterdir()) == [old]


def test_a_disk_that_is_full_at_the_end_is_an_error_of_unify(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with `make bench`")
    full = tmp_path / "full.svg"
    full.symlink_to("/dev/full")
    with pytest.raises(InvalidArgument, match=r"full\.svg: it cannot be written: No space left"):
        plot.save([row(1.0)], full, "a machine")
