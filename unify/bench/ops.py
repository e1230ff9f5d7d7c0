"""`unify ops`: what the operators are, and where each of a large model's calls stands under a chip's roofline."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unify._errors import InvalidArgument
from unify.ops import cost
from unify.ops.cost import Cost

from . import limits as chips, plot
from .compare import measure_limits
from .limits import Limits
from .process import choose_cpus

_ROOFLINE: dict[str, Any] = {
    "target": "cpu",
    "batch": 64,
    "context": 8192,
    "tokens": 4096,
    "weights": "fp8",
    "plot": None,
}

# Bytes of a weight with its part of the scales: a float32 for 128 × 128, a float16 for 32.
WEIGHTS = {"bf16": 2.0, "fp8": 1 + 4 / 128**2, "int8": 1 + 2 / 32, "int4": 0.5 + 2 / 32}


@dataclass(frozen=True)
class Call:
    """One call of an op: what for, and what it costs at least."""

    phase: str  # "prefill", "decode"
    op: str
    about: str
    cost: Cost

    def row(self, limits: Limits) -> dict[str, Any]:
        """Plain data for json.dumps. bound: "compute" or "memory", whichever is the limit on this chip."""
        compute, memory = self.cost.flops / limits.peak("bf16"), self.cost.bytes / limits.bytes
        return {
            "phase": self.phase, "op": self.op, "about": self.about, "flops": self.cost.flops,
            "bytes": self.cost.bytes, "flops_per_byte": self.cost.intensity, "least_us": max(compute, memory) * 1e6,
            "bound": "compute" if compute > memory else "memory",
        }  # fmt: skip


@dataclass(frozen=True)
class _DeepSeek:
    """Sizes of DeepSeek-V3 as its config.json has them."""

    width: int = 7168
    heads: int = 128
    query_rank: int = 1536
    rank: int = 512
    rope: int = 64
    nope: int = 128
    value_width: int = 128
    experts: int = 256
    top_k: int = 8
    expert_width: int = 2048
    vocabulary: int = 129280


def calls(*, batch: int, context: int, tokens: int, weights: str) -> list[Call]:
    """The calls of a layer of DeepSeek-V3 with experts, in bf16: of a prompt's `tokens`, and of a step of `batch`
    sequences that have `context` tokens each."""
    m, size = _DeepSeek(), WEIGHTS[weights]
    found = []
    for phase, rows in (("prefill", tokens), ("decode", batch)):
        found += [
            Call(phase, "rms_norm", f"[{rows}, {m.width}]", cost.elementwise(rows * m.width, rows * m.width)),
            _linear(phase, "queries down, keys and values down", rows, m.query_rank + m.rank + m.rope, m.width, size),
            _linear(phase, "queries up", rows, m.heads * (m.nope + m.rope), m.query_rank, size),
        ]
        if phase == "prefill":
            found += [
                _linear(phase, "keys and values up", rows, m.heads * (m.nope + m.value_width), m.rank, size),
                Call(
                    phase, "attention", f"{rows} tokens, {m.heads} heads of {m.nope + m.rope} and {m.value_width}",
                    cost.attention(
                        rows, rows, heads=m.heads, kv_heads=m.heads, width=m.nope + m.rope, value_width=m.value_width
                    ),
                ),
            ]  # fmt: skip
        else:
            found.append(
                Call(
                    phase,
                    "mla_attention",
                    f"{rows} × {context} keys, {m.heads} heads over rows of {m.rank + m.rope}",
                    cost.mla_attention(rows, context, heads=m.heads, rank=m.rank, rope=m.rope),
                )
            )
        found += [
            _linear(phase, "heads to width", rows, m.width, m.heads * m.value_width, size),
            Call(phase, "route", f"{rows} tokens, {m.experts} experts", cost.route(rows, m.experts, m.top_k)),
            Call(
                phase, "moe", f"{rows} tokens, {m.top_k} of {m.experts} experts of {m.expert_width}, {weights}",
                cost.moe(
                    rows, experts=m.experts, top_k=m.top_k, width=m.width, expert_width=m.expert_width,
                    weight_bytes=size,
                ),
            ),
            Call(
                phase, "linear", f"the shared expert, {weights}",
                cost.linear(rows, 2 * m.expert_width, m.width, weight_bytes=size)
                + cost.linear(rows, m.width, m.expert_width, weight_bytes=size),
            ),
        ]  # fmt: skip
    head = _linear("decode", "logits", batch, m.vocabulary, m.width, 2)
    return [
        *found,
        head,
        Call(
            "decode", "sample", f"[{batch}, {m.vocabulary}]", cost.elementwise(batch * m.vocabulary, batch, itemsize=4)
        ),
    ]


def _linear(phase: str, what: str, m: int, n: int, k: int, weight_bytes: float) -> Call:
    return Call(phase, "linear", f"{what}: {m} × {n} × {k}", cost.linear(m, n, k, weight_bytes=weight_bytes))


def run(args: Any) -> int:
    """Runs `unify ops` and returns its exit status. Raises InvalidArgument for a question that makes no sense."""
    given = {name: value for name in _ROOFLINE if (value := getattr(args, name)) is not None}
    if not args.roofline:
        if given:
            raise InvalidArgument(f"ops: {', '.join(f'--{name}' for name in given)}: only with --roofline.")
        return _describe(args.op, as_json=args.json)
    if args.op is not None:
        raise InvalidArgument(f"ops: --roofline draws all of them; leave {args.op} out.")
    if args.plot is not None:
        plot.check(Path(args.plot))
    sizes = {**_ROOFLINE, **given}
    limits = _limits(sizes.pop("target"))
    del sizes["plot"]
    rows = [call.row(limits) for call in calls(**sizes)]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows, limits)
    if args.plot is not None:
        plot.save_roofline(rows, limits, Path(args.plot))
    return 0


def _limits(target: str) -> Limits:
    if target != "cpu":
        return chips.of_target(target)
    cpus = choose_cpus(0)
    return chips.of_machine(measure_limits(len(cpus), cpus))


def _describe(name: str | None, *, as_json: bool) -> int:
    every = _every_op()
    if name is not None and name not in every:
        import difflib

        near = difflib.get_close_matches(name, every, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise InvalidArgument(f"ops: no op {name!r}. {hint}`unify ops` lists them.")
    functions = every if name is None else {name: every[name]}
    if as_json:
        print(
            json.dumps([{"op": n, "signature": str(_signature(f)), "about": _about(f)} for n, f in functions.items()])
        )
        return 0
    if name is not None:
        print(f"{name}{_signature(functions[name])}\n\n{inspect.getdoc(functions[name])}")
        return 0
    width = max(map(len, functions))
    for one, function in functions.items():
        print(f"{one:{width}}  {_about(function)}")
    return 0


def _every_op() -> dict[str, Any]:
    """What of unify.ops runs on a stream."""
    from unify import ops

    public = {name: getattr(ops, name) for name in ops.__all__}
    return {n: f for n, f in public.items() if inspect.isfunction(f) and "stream" in inspect.signature(f).parameters}


def _signature(function: Any) -> inspect.Signature:
    """Without annotations, which are all Any."""
    found = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return found.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _about(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")


def _print_table(rows: list[dict[str, Any]], limits: Limits) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("phase", "op", "what"):
        table.add_column(heading)
    for heading in ("GFLOP", "MB", "FLOP a byte", "least µs", "bound by"):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = (row["flops"] / 1e9, row["bytes"] / 1e6, row["flops_per_byte"], row["least_us"])
        table.add_row(row["phase"], row["op"], row["about"], *map(plot.number, figures), row["bound"])
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    ridge = limits.peak("bf16") / limits.bytes
    console.print(
        f"\nOne layer of DeepSeek-V3 with experts, activations in bf16. {limits.name} ({limits.source}): "
        f"{plot.number(limits.peak('bf16') / 1e12)} TFLOP/s, {plot.number(limits.bytes / 1e9)} GB/s; memory is the "
        f"limit below {plot.number(ridge)} FLOP a byte."
    )
