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


@dataclass(frozen=True)
class Call:
    """One call of an op: what for, and what it costs at least."""

    phase: str  # "prefill", "decode", "other"
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


_MODEL = _DeepSeek()
_LLAMA = {"heads": 32, "kv_heads": 8, "width": 128}  # of Llama 3 8B
_FOUND = 256  # tokens of each text that penalties and biases are for
_PARTS = 8  # of a cache, whose attentions are joined


def calls(*, batch: int, context: int, tokens: int, weights: str) -> list[Call]:
    """The calls of a layer of DeepSeek-V3 with experts, in bf16: of a prompt's `tokens`, and of a step of `batch`
    sequences that have `context` tokens each; what goes before and behind all layers; and what this model does not
    call, with the heads of Llama 3."""
    return [
        *_layer("prefill", tokens, context, weights),
        *_layer("decode", batch, context, weights),
        *_next_token(batch),
        *_others(batch, context, tokens, weights),
    ]


def _layer(phase: str, rows: int, context: int, weights: str) -> list[Call]:
    m, size = _MODEL, cost.WEIGHT_BYTES[weights]

    def linear(what: str, n: int, k: int) -> Call:
        return Call(phase, "linear", f"{what}: {rows} × {n} × {k}", cost.linear(rows, n, k, weight_bytes=size))

    attention = _expanded if phase == "prefill" else _absorbed
    return [
        Call(phase, "embedding", f"[{rows}, {m.width}], bf16", cost.embedding(rows, m.width)),
        Call(phase, "rms_norm", f"[{rows}, {m.width}]", cost.rms_norm(rows, m.width)),
        linear("queries down, keys and values down", m.query_rank + m.rank + m.rope, m.width),
        linear("queries up", m.heads * (m.nope + m.rope), m.query_rank),
        Call(phase, "rope", f"{rows} tokens, {m.heads} heads' {m.rope}", cost.rope(rows, m.heads, m.rope)),
        Call(
            phase, "latent_write", f"{rows} rows of {m.rank + m.rope}",
            cost.latent_write(rows, rank=m.rank, rope=m.rope),
        ),
        *attention(phase, rows, context, size),
        linear("heads to width", m.width, m.heads * m.value_width),
        *_experts(phase, rows, weights),
        Call(
            phase, "linear", f"the shared expert, {weights}",
            cost.linear(rows, 2 * m.expert_width, m.width, weight_bytes=size)
            + cost.linear(rows, m.width, m.expert_width, weight_bytes=size),
        ),
        Call(phase, "swiglu", f"the shared expert: [{rows}, {m.expert_width}]", cost.swiglu(rows, m.expert_width)),
    ]  # fmt: skip


def _expanded(phase: str, rows: int, context: int, size: float) -> list[Call]:
    """Attention of one prompt over itself, with keys and values for each head."""
    m = _MODEL
    both = m.nope + m.value_width
    return [
        Call(phase, "latent_read", f"{rows} rows of {m.rank + m.rope}", cost.latent_read(rows, m.rank + m.rope)),
        Call(
            phase, "linear", f"keys and values up: {rows} × {m.heads * both} × {m.rank}",
            cost.linear(rows, m.heads * both, m.rank, weight_bytes=size),
        ),
        Call(
            phase, "attention", f"{rows} tokens, {m.heads} heads of {m.nope + m.rope} and {m.value_width}",
            cost.attention(
                rows, rows, heads=m.heads, kv_heads=m.heads, width=m.nope + m.rope, value_width=m.value_width
            ),
        ),
    ]  # fmt: skip


def _absorbed(phase: str, rows: int, context: int, size: float) -> list[Call]:
    """Attention of one token of each sequence over latent rows, with a product of each head before and behind it."""
    m = _MODEL
    return [
        Call(
            phase, "matmul", f"queries to latent ones: {m.heads} of {rows} × {m.rank} × {m.nope}",
            cost.matmul(rows, m.rank, m.nope, batch=m.heads),
        ),
        Call(
            phase, "mla_attention", f"{rows} × {context} keys, {m.heads} heads over rows of {m.rank + m.rope}",
            cost.mla_attention(rows, context, heads=m.heads, rank=m.rank, rope=m.rope),
        ),
        Call(
            phase, "matmul", f"latent values to values: {m.heads} of {rows} × {m.value_width} × {m.rank}",
            cost.matmul(rows, m.value_width, m.rank, batch=m.heads),
        ),
    ]  # fmt: skip


def _experts(phase: str, rows: int, weights: str) -> list[Call]:
    """Routing, the layer, and its parts, which is what else may be called in its place."""
    m, size = _MODEL, cost.WEIGHT_BYTES[weights]
    hit, assigned = cost.experts_hit(rows, m.experts, m.top_k), rows * m.top_k
    return [
        Call(phase, "route", f"{rows} tokens, {m.experts} experts", cost.route(rows, m.experts, m.top_k)),
        Call(
            phase, "moe", f"{rows} tokens, {m.top_k} of {m.experts} experts of {m.expert_width}, {weights}",
            cost.moe(
                rows, experts=m.experts, top_k=m.top_k, width=m.width, expert_width=m.expert_width, weight_bytes=size
            ),
        ),
        Call(
            phase, "permute", f"moe's assignments: {assigned}, {m.experts} experts",
            cost.permute(rows, m.experts, m.top_k),
        ),
        Call(
            phase, "grouped_linear",
            f"moe's gate and up: {assigned} × 2 · {m.expert_width} × {m.width}, {weights}",
            cost.grouped_linear(
                assigned, m.expert_width, m.width, groups=hit, gated=True, inputs=rows, weight_bytes=size
            ),
        ),
        Call(
            phase, "grouped_linear", f"moe's down: {assigned} × {m.width} × {m.expert_width}, {weights}",
            cost.grouped_linear(assigned, m.width, m.expert_width, groups=hit, weight_bytes=size),
        ),
        Call(
            phase, "combine", f"moe's results: {m.top_k} rows of {m.width} for {rows} tokens",
            cost.combine(rows, m.width, top_k=m.top_k),
        ),
    ]  # fmt: skip


def _next_token(batch: int) -> list[Call]:
    m = _MODEL
    logits = f"[{batch}, {m.vocabulary}]"
    return [
        Call("decode", "linear", f"logits: {batch} × {m.vocabulary} × {m.width}",
             cost.linear(batch, m.vocabulary, m.width)),
        Call("decode", "penalize", logits, cost.penalize(batch, m.vocabulary)),
        Call("decode", "sample", logits, cost.sample(batch, m.vocabulary)),
        Call("decode", "count_tokens", f"{batch} tokens, to counts {logits}",
             cost.count_tokens(batch, 1, m.vocabulary, added=True)),
    ]  # fmt: skip


def _others(batch: int, context: int, tokens: int, weights: str) -> list[Call]:
    m = _MODEL
    heads = "{heads} heads over {kv_heads}, width {width}".format(**_LLAMA)
    found = [
        Call("other", "kv_write", f"{tokens} tokens, {_LLAMA['kv_heads']} heads, width {_LLAMA['width']}",
             cost.kv_write(tokens, kv_heads=_LLAMA["kv_heads"], width=_LLAMA["width"])),
        Call("other", "paged_prefill", f"{tokens} tokens, {heads}", cost.paged_prefill(tokens, tokens, **_LLAMA)),
        Call("other", "paged_attention", f"{batch} × {context} keys, {heads}",
             cost.paged_attention(batch, context, **_LLAMA)),
        Call("other", "merge_states", f"{_PARTS} parts of {batch} queries, {_LLAMA['heads']} heads",
             cost.merge_states(_PARTS, batch, heads=_LLAMA["heads"], width=_LLAMA["width"])),
        Call("other", "expert_load", f"{tokens} tokens, {m.experts} experts",
             cost.expert_load(tokens, m.experts, m.top_k)),
        Call("other", "logit_bias", f"{_FOUND} tokens of [{batch}, {m.vocabulary}]",
             cost.logit_bias(batch, m.vocabulary, _FOUND)),
        Call("other", "quantize", f"[{tokens}, {m.width}] to fp8", cost.quantize(tokens, m.width, "fp8")),
    ]  # fmt: skip
    if weights != "bf16":
        about, size = f"[{m.experts}, {m.width}, {m.expert_width}] to {weights}", (m.width, m.expert_width)
        found.append(Call("other", "quantize_weight", about, cost.quantize_weight(*size, weights, experts=m.experts)))
    return found


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
        "\nOne layer of DeepSeek-V3 with experts, activations in bf16; moe is what its parts do in one call. other: "
        f"calls that this model does not make, with Llama 3's heads. {limits.name} ({limits.source}): "
        f"{plot.number(limits.peak('bf16') / 1e12)} TFLOP/s, {plot.number(limits.bytes / 1e9)} GB/s; memory is the "
        f"limit below {plot.number(ridge)} FLOP a byte."
    )
