"""The report: a table with bars for a terminal, and the same figure as PNG, SVG or PDF."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unify._errors import InvalidArgument, UnsupportedError

from .compare import Comparison

if TYPE_CHECKING:
    from rich.table import Table

    from .limits import Limits

FORMATS = (".png", ".svg", ".pdf")
BAR_CELLS = 20
# A bar's ends: a quarter of the peer's speed, and four times it. A ratio beyond them fills its half.
BAR_RANGE = 4.0


def table(rows: Sequence[Comparison]) -> Table:
    """A rich table: one row a case, the bar's middle is the peer's speed, its scale logarithmic."""
    from rich.table import Table

    report = Table(box=None, pad_edge=False, header_style="bold")
    report.add_column("case")
    for heading in ("ours", "peer"):
        report.add_column(heading, justify="right")
    report.add_column("unit")
    report.add_column("ratio", justify="right")
    report.add_column("middle half", justify="right")
    report.add_column("all pairs", justify="right")
    report.add_column(f"slower {'·' * (BAR_CELLS - 14)} faster", no_wrap=True)
    report.add_column("of limit", justify="right")
    report.add_column("against")
    for row in rows:
        colour = "dim" if row.is_noisy else "green" if row.ratio >= 1 else "yellow" if row.ratio >= 0.8 else "red"
        report.add_row(
            row.label,
            number(row.ours),
            number(row.peer),
            row.unit,
            f"[{colour}]{'noisy ' if row.is_noisy else ''}{row.ratio:.2f}×[/]",
            f"{row.ratio_q1:.2f}-{row.ratio_q3:.2f}",
            f"{row.ratio_min:.2f}-{row.ratio_max:.2f}",
            f"[{colour}]{bar(row.ratio)}[/]",
            "" if row.limit_fraction is None else f"{row.limit_fraction:.0%}",
            f"{row.peer_name} {row.peer_version}",
        )
    return report


def bar(ratio: float) -> str:
    """The ratio as a bar that grows from the middle: to the right where ours is faster."""
    half = BAR_CELLS // 2
    cells = min(half, round(abs(math.log(ratio)) / math.log(BAR_RANGE) * half))
    if ratio >= 1:
        return " " * half + "│" + "█" * cells + " " * (half - cells)
    return " " * (half - cells) + "█" * cells + "│" + " " * half


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def save(rows: Sequence[Comparison], path: Path, title: str) -> None:
    """Draws the paired ratios: a dot for the median, a box for the middle half, whiskers over all pairs.

    Raises what `check` does.
    """
    check(path)
    figure, axes = _figure(1.2 + 0.36 * len(rows))
    _draw(axes, rows)
    axes.set_title(title, loc="left", fontsize=10)
    _write(figure, path)


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "unify"  # the same rows give the same file
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    return figure, axes


def _write(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    try:
        figure.savefig(path, dpi=150)
    except OSError as error:  # the disk may have filled up meanwhile
        raise InvalidArgument(f"--plot {path}: it cannot be written: {error.strerror}.") from None
    finally:
        pyplot.close(figure)


def check(path: Path) -> None:
    """Tells at once, before minutes of measuring, whether a figure can be drawn there.

    Raises InvalidArgument for another ending than .png, .svg or .pdf and for a file that cannot be written,
    UnsupportedError if matplotlib is missing.
    """
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgument(f"--plot {path}: the ending says the format; use one of {', '.join(FORMATS)}.")
    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise InvalidArgument(f"--plot {path}: it cannot be written: {error.strerror}.") from None
    if importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError(
            "--plot needs matplotlib. Install it with `make bench`, or with `pip install unify-runtime[bench]`."
        )


def _draw(axes: Any, rows: Sequence[Comparison]) -> None:
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        colour = "#2a7f3f" if row.ratio >= 1 else "#b8860b" if row.ratio >= 0.8 else "#b22222"
        axes.hlines(place, row.ratio_min, row.ratio_max, color=colour, linewidth=1)
        axes.barh(place, row.ratio_q3 - row.ratio_q1, left=row.ratio_q1, height=0.5, color=colour, alpha=0.35)
        axes.plot(row.ratio, place, "o", color=colour, markersize=5)
        axes.annotate(f" {row.ratio:.2f}×", (row.ratio_max, place), va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_yticks(list(places), [f"{row.label}  vs {row.peer_name}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        "speed over the peer's: right of 1× unify is faster (dot: median, box: middle half, line: all pairs)"
    )
    axes.margins(x=0.12)


def save_roofline(rows: Sequence[dict[str, Any]], limits: Limits, path: Path) -> None:
    """Draws calls under a chip's roof: operations a byte, and the operations a second that they allow.

    rows: as ops.Call.row gives them; those without operations have no place in it. Raises what `check` does.
    """
    check(path)
    figure, axes = _figure(6)
    peak, memory = limits.peak("bf16"), limits.bytes
    drawn = [row for row in rows if row["flops"]]
    places = [row["flops_per_byte"] for row in drawn]
    roof = [min(*places, peak / memory) / 2, peak / memory, max(*places, peak / memory) * 2]
    axes.plot(roof, [min(peak, x * memory) / 1e12 for x in roof], color="black", linewidth=1.2)
    colours = {"prefill": "#2a7f3f", "decode": "#b8860b", "other": "#3f5f9f"}
    order = sorted(range(len(places)), key=places.__getitem__)
    for number_, (row, place) in enumerate(zip(drawn, places, strict=True), 1):
        height = min(peak, place * memory) / 1e12
        label = f"{number_} {row['phase']}: {row['op']}, {row['about'].partition(':')[0].partition(',')[0]}"
        axes.plot(place, height, "o", color=colours[row["phase"]], markersize=5, label=label)
        offset = (-2, -9 - 8 * (order.index(number_ - 1) % 4))  # neighbours' numbers below each other
        axes.annotate(str(number_), (place, height), xytext=offset, textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="TFLOP/s at most")
    axes.legend(fontsize=7)
    axes.set_title(f"{limits.name}\n{limits.source}", loc="left", fontsize=9)
    _write(figure, path)
