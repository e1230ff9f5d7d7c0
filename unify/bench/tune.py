"""`unify tune`: measures tiles with a model's shapes, or with those of a program, and keeps the fastest."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import unify
from unify import ops
from unify._errors import Error, InvalidArgument
from unify.ops import tuning
from unify.ops.tile import Tile
from unify.ops.tuning import Found, Tuning

from . import plot

_WRITTEN = 2  # tokens behind a prompt: the second one takes a decoding step
_ANSWER = 64  # tokens that `unify generate` makes room for


def run(args: Any) -> int:
    """Runs `unify tune` and returns its exit status: 0, 1 if the program failed, 2 if the question made no sense."""
    try:
        device = unify.device(args.device) if args.device else unify.default_device()
        if args.forget:
            tuning.forget(device)
            return 0
        if (args.program is None) == (args.model is None):
            raise InvalidArgument("tune: give a program, or a model by --model; `unify tune --help` has examples.")
        if args.model is None and (args.weights or args.activations):
            raise InvalidArgument("tune: --weights and --activations are of a model, given by --model; leave them out.")
        with ops.tune(_said if not args.json else lambda _: None) as session:
            if args.model is not None:
                _run_model(args, device)
            else:
                _run_program(args.program, args.arguments)
    except Error as error:
        print(error, file=sys.stderr)
        return 2
    except SystemExit as exit_:  # the program's own
        if exit_.code not in (None, 0):
            print(f"tune: {args.program} ended with {exit_.code}", file=sys.stderr)
            return 1
    _show(session, as_json=args.json)
    return 0


def _run_model(args: Any, device: Any) -> None:
    """Takes a step over long texts, and writes behind prompts of each length: of each number of sequences at a time."""
    from unify.models import load

    model, _ = load(args.model, device=device, weights=args.weights, activations=args.activations)
    longest = model.config.context
    for sequences in args.sequences:
        _step(model, sequences, min(args.max_context, longest))
        for tokens in (min(tokens, longest - _WRITTEN) for tokens in args.tokens):
            _write(model, sequences, tokens, min(tokens + _ANSWER, longest))


def _step(model: Any, sequences: int, context: int) -> None:
    """Takes a decoding step of `sequences` whose caches have room for `context` tokens and are half full.

    What such a cache has room for decides how many parts an attention has, so short texts are not to be measured in it.
    What is in it does not matter to time; tokens do, as experts are chosen by them.
    """
    import numpy as np

    from unify.models.kv_cache import BLOCK_SIZE

    keys = -(-context // 2)
    cache = model.cache(context, sequences=sequences, blocks=sequences * -(-keys // BLOCK_SIZE))
    for pages in cache.pages:
        for page in pages:
            page.fill_(0)
    slots = []
    for row in range(sequences):
        cache.grow(keys, row)
        slots.append(int(cache.slots(keys - 1, 1, row)[0]))
    tokens = np.random.default_rng(sequences).integers(model.config.vocabulary, size=sequences).tolist()
    state = [tokens, [keys - 1] * sequences, [keys] * sequences, slots]
    ids, positions, lengths, places = (unify.asarray(x, dtype=unify.int32, device=model.device) for x in state)
    model.decode(ids, positions, lengths, cache, places)
    unify.synchronize(model.device)


def _write(model: Any, sequences: int, tokens: int, context: int) -> None:
    """Prefills `sequences` prompts of so many tokens and takes a decoding step of all, as a user's program does."""
    import numpy as np

    from unify.models import Batch
    from unify.models.kv_cache import BLOCK_SIZE

    blocks = sequences * -(-(tokens + _WRITTEN) // BLOCK_SIZE)
    batch = Batch(model, rows=sequences, max_context=context, blocks=blocks)
    prompts = np.random.default_rng(tokens).integers(model.config.vocabulary, size=(sequences, tokens))
    for prompt in prompts.tolist():
        batch.submit(prompt, _WRITTEN)
    batch.run()


def _run_program(path: str, arguments: list[str]) -> None:
    if not Path(path).is_file():
        raise InvalidArgument(f"tune: there is no program {path}.")
    before = sys.argv, list(sys.path)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before


def _said(found: Found) -> None:
    print(f"{found.device}: {_what(found)}: {found.tried} tried, {_gain(found)}", file=sys.stderr, flush=True)


def _what(found: Found) -> str:
    return f"{found.name} {', '.join(map(str, found.key))}"


def _gain(found: Found) -> str:
    return "the table's is the fastest" if found.best == found.default else f"{found.speedup:.2f} times as fast"


def _show(session: Tuning, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(found) for found in session.found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    if not session.found:
        print("Nothing was measured: all that was asked for is known, or has no tiles to choose.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("tile of", "sizes", "by the table", "fastest"):
        table.add_column(heading)
    table.add_column("times as fast", justify="right")
    for found in session.found:
        sizes = ", ".join(map(str, found.key))
        table.add_row(found.name, sizes, _words(found.default), _words(found.best), plot.number(found.speedup))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _words(tile: Tile) -> str:
    return " × ".join(map(str, (tile.m, tile.n, tile.k))) + "".join(f", {k}={v}" for k, v in tile.launch.items())
