"""`unify tune`: measures tiles with a model's shapes, or with those of a program, and keeps the fastest."""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections import Counter
from collections.abc import Callable
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

_OF_MODEL: dict[str, Any] = {
    "weights": None, "activations": None, "tokens": [128, 512], "sequences": [1, 8], "max_context": 4096,
}  # fmt: skip
_WRITTEN = 2  # tokens behind a prompt: the second one takes a decoding step
_ANSWER = 64  # tokens that `unify generate` makes room for


def run(args: Any) -> int:
    """Runs `unify tune` and returns its exit status. Raises Error, of wrong usage InvalidArgument."""
    device = unify.device(args.device) if args.device else unify.default_device()
    given = {name: vars(args)[name] for name in _OF_MODEL if vars(args)[name] is not None}
    if args.forget:
        if args.program is not None or args.model is not None or given:
            raise InvalidArgument("tune: --forget forgets all of a device; leave out what else is to be done.")
        _say_forgotten(device, Counter(tuning.forget(device)), as_json=args.json)
        return 0
    if (args.program is None) == (args.model is None):
        raise InvalidArgument("tune: give a program, or a model by --model; `unify tune --help` has examples.")
    if args.model is None and given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidArgument(f"tune: {words}: only of a model, given by --model. Leave out or give one.")
    progress = _Progress(is_shown=not args.json)
    with ops.tune(progress) as session:
        if args.model is not None:
            options = argparse.Namespace(**{**_OF_MODEL, **given})
            _run_model(args.model, device, options, lambda passes: progress.expect(session.count(passes)))
        else:
            _run_program(args.program, args.arguments)
    _show(session, as_json=args.json)
    return 0


def _run_model(name: str, device: Any, options: Any, before: Callable[[Callable[[], None]], None]) -> None:
    """Runs a model as users do. options: as _OF_MODEL's; before: gets what will be run."""
    from unify.models import load

    model, _ = load(name, device=device, weights=options.weights, activations=options.activations)
    if model.config.context <= _WRITTEN:
        raise InvalidArgument(f"tune: {name} has a context of {model.config.context}, too short for a prompt.")
    before(lambda: _passes(model, options))
    _passes(model, options)


def _passes(model: Any, options: Any) -> None:
    """Takes a step over long texts, and writes behind prompts of each length: of each number of sequences at a time."""
    longest = model.config.context
    for sequences in options.sequences:
        _step(model, sequences, min(options.max_context, longest))
        for tokens in (min(tokens, longest - _WRITTEN) for tokens in options.tokens):
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
    except SystemExit as end:
        if end.code not in (None, 0):
            raise Error(f"tune: {path} ended with {end.code}") from None
    except Error as error:  # the program's, whatever it asked for
        raise Error(f"tune: {path} ended with {type(error).__name__}: {error}") from error
    finally:
        sys.argv, sys.path[:] = before


class _Progress:
    """Says what was found, and how many of how many that makes where it is known."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown, self._done, self._total = is_shown, 0, ""

    def expect(self, total: int) -> None:
        self._total = f" of {total}"

    def __call__(self, found: Found) -> None:
        self._done += 1
        if self._is_shown:
            line = f"{self._done}{self._total}, {found.device}: {_what(found)}: {found.tried} tried, {_gain(found)}"
            print(line, file=sys.stderr, flush=True)


def _say_forgotten(device: Any, tiles: Counter[str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": name, "tiles": count} for name, count in sorted(tiles.items())], indent=2))
    elif tiles:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(tiles.items()))
        print(f"Forgot the tiles that were measured on devices like {device}: {counted}.")
    else:
        print(f"Nothing was measured on devices like {device}.")


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
