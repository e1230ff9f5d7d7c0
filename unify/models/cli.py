"""`unify chat` and `unify generate`."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import unify
from unify._errors import Error, InvalidArgument
from unify._process import peak_memory_bytes

from . import load
from .chat import Chat, first_text, kernels, printable, statistics
from .decoder import Decoder
from .generate import Answer, Generator
from .sampling import Sampling
from .speculative import SpeculativeGenerator
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.console import Console

_QUESTION = "What is the capital of France, and what is it known for?"


def generate(args: argparse.Namespace) -> int:
    """Continues one prompt. With args.json prints one object on standard output and nothing else there."""
    model, tokenizer = _load(args)
    ids = args.prompt_ids or tokenizer.encode(args.prompt, control=True)
    if len(ids) + args.max_tokens > model.config.context:
        raise InvalidArgument(
            f"{len(ids)} prompt tokens and --max-tokens {args.max_tokens} do not fit into this model's context of "
            f"{model.config.context}. Ask for fewer, or shorten the prompt."
        )
    generator = _generator(args, model, tokenizer, len(ids) + args.max_tokens)
    clean = printable if sys.stdout.isatty() else str

    def write(text: str) -> None:
        sys.stdout.write(clean(text))
        sys.stdout.flush()

    if args.json:
        status = _console(stderr=True).status("compiling kernels and generating")  # nothing where it is no terminal
        with status, first_text(lambda _: None, is_shown=sys.stderr.isatty()) as show:
            answer = generator.generate(ids, args.max_tokens, show)
        sys.stdout.write(json.dumps(_report(answer, model)) + "\n")
        return 0
    generator.check(ids, args.max_tokens)  # before anything is on the screen
    write(args.prompt if args.prompt_ids is None else tokenizer.decode(ids))
    try:
        with first_text(write) as write_first:
            answer = generator.generate(ids, args.max_tokens, write_first)
    except (Error, KeyboardInterrupt):
        write("\n")  # what is said of it does not stand in the text
        raise
    write("\n")
    sys.stderr.write(f"{statistics(answer, generator)}\nkernels: {', '.join(kernels())}\n")
    return 0


def _generator(args: argparse.Namespace, model: Decoder, tokenizer: Tokenizer, context: int) -> Generator:
    sampling = _sampling(args)
    if not args.speculate:
        return Generator(model, tokenizer, sampling, max_context=context)
    if sampling.temperature != 0.0 or sampling.has_penalties or sampling.logit_bias:
        raise InvalidArgument("--speculate writes the likeliest tokens only: give --greedy, no penalties and no bias.")
    return SpeculativeGenerator(model, tokenizer, max_context=context)


def chat(args: argparse.Namespace) -> int:
    """Talks; where standard input is no terminal, asks one question and ends."""
    model, tokenizer = _load(args)
    console = _console(stderr=False)
    context = min(4096, model.config.context) if args.max_context is None else args.max_context
    if context > model.config.context:
        raise InvalidArgument(f"--max-context {context} is more than the {model.config.context} tokens of this model.")
    generator = Generator(model, tokenizer, _sampling(args), max_context=context)
    conversation = Chat(generator, console, max_tokens=args.max_tokens)
    question = args.prompt
    if question is None and sys.stdin is not None and sys.stdin.isatty():
        console.print(f"{args.model} on {model.device}. /help lists what you can do.", style="dim", markup=False)
        conversation.run()
        return 0
    question = question or _piped() or _QUESTION
    console.print(f"> {question}", style="bold", markup=False)
    conversation.ask(question)
    return 0


def _piped() -> str:
    return "" if sys.stdin is None else sys.stdin.buffer.read().decode(errors="replace").strip()


def _sampling(args: argparse.Namespace) -> Sampling:
    temperature = 0.0 if args.greedy else args.temperature
    return Sampling(
        temperature=temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
        logit_bias=args.logit_bias or {},
        seed=args.seed,
    )


def _report(answer: Answer, model: Decoder) -> dict[str, Any]:
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": answer.prompt_tokens,
        "prefill_tokens_per_s": round(answer.prefill_tokens_per_s, 2),
        "decode_tokens_per_s": round(answer.decode_tokens_per_s, 2),
        "device": str(model.device),
        "simulated": bool(model.device.properties["simulated"]),
        "peak_memory_mb": round(peak_memory_bytes() / 1e6, 1),
    }


def _load(args: argparse.Namespace) -> tuple[Decoder, Tokenizer]:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # text that the terminal's encoding lacks is no error
    device = unify.device(args.device) if args.device else unify.default_device()
    if args.threads:
        device.set_option("threads", str(args.threads))
    with _progress() as show:
        return load(args.model, device=device, weights=args.weights, activations=args.activations, progress=show)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar for each thing that is done (of a directory: for each shard), on standard error, gone when it is done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description:10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = _console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, size: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=size or None)
            bars.update(tasks[what], completed=done, total=size or None)
            if done == size > 0:
                bars.remove_task(tasks.pop(what))  # there may be hundreds

        yield show
