"""`unify chat` and `unify generate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import unify

from .fetch import model_path
from .generate import Answer, Generator, Sampling, peak_memory_mb
from .llama import Llama
from .tokenizer import Tokenizer
from .weights import ModelFile

if TYPE_CHECKING:
    from rich.console import Console

_QUESTION = "What is the capital of France, and what is it known for?"


def generate(args: argparse.Namespace) -> int:
    """Continues one prompt. With args.json prints one object on standard output and nothing else there."""
    model, tokenizer = _load(args)
    ids = tokenizer.encode(args.prompt, control=True)
    generator = Generator(model, tokenizer, _sampling(args), max_context=len(ids) + args.max_tokens)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if not args.json:
        write(args.prompt)
    answer = generator.generate(ids, args.max_tokens, None if args.json else write)
    if args.json:
        sys.stdout.write(json.dumps(_report(answer, model)) + "\n")
    else:
        write("\n")
        sys.stderr.write(_summary(answer, model) + "\n")
    return 0


def chat(args: argparse.Namespace) -> int:
    """Talks; where standard input is no terminal, asks one question and ends."""
    model, tokenizer = _load(args)
    console = _console(stderr=False)
    generator = Generator(model, tokenizer, _sampling(args), max_context=args.max_context)
    messages: list[dict[str, str]] = []
    if not sys.stdin.isatty():
        question = getattr(args, "prompt", None) or _QUESTION
        console.print(f"[bold]> {question}[/bold]")
        _turn(generator, messages, question, args.max_tokens, console)
        return 0
    console.print(f"[dim]{args.model} on {model.device}. An empty line or Ctrl-D ends; Ctrl-C stops an answer.[/dim]")
    while question := _ask(console):
        _turn(generator, messages, question, args.max_tokens, console)
    return 0


def _ask(console: Console) -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return ""


def _turn(
    generator: Generator, messages: list[dict[str, str]], question: str, max_tokens: int, console: Console
) -> None:
    messages.append({"role": "user", "content": question})
    ids = generator.tokenizer.chat(messages)
    written = []

    def write(text: str) -> None:
        written.append(text)
        console.out(text, end="", highlight=False)
        console.file.flush()

    try:
        room = generator.cache.capacity - len(ids)
        if room < 1:
            console.print("[yellow]The conversation is as long as the context; it begins anew.[/yellow]")
            del messages[:-1]
            ids = generator.tokenizer.chat(messages)
            room = generator.cache.capacity - len(ids)
        answer = generator.generate(ids, max(1, min(max_tokens, room)), write)
        console.print(f"\n[dim]{_summary(answer, generator.model)}[/dim]", highlight=False)
    except KeyboardInterrupt:
        console.print("[dim] … stopped[/dim]")
    messages.append({"role": "assistant", "content": "".join(written)})


def _sampling(args: argparse.Namespace) -> Sampling:
    temperature = 0.0 if args.greedy else args.temperature
    return Sampling(temperature=temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)


def _report(answer: Answer, model: Llama) -> dict[str, Any]:
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_tokens": answer.prompt_tokens,
        "prefill_tokens_per_s": round(answer.prefill_tokens_per_s, 2),
        "decode_tokens_per_s": round(answer.decode_tokens_per_s, 2),
        "device": str(model.device),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def _summary(answer: Answer, model: Llama) -> str:
    return (
        f"{answer.prompt_tokens} prompt tokens at {answer.prefill_tokens_per_s:.0f}/s, "
        f"{len(answer.token_ids)} tokens at {answer.decode_tokens_per_s:.0f}/s, {model.device}, "
        f"{peak_memory_mb():.0f} MB at most; kernels: {', '.join(_kernels())}"
    )


def _kernels() -> list[str]:
    """Names of the kernels that this process has run."""
    import gc

    from unify._kernel import Kernel

    kernels = [k for k in gc.get_objects() if type(k) is Kernel and k.binaries]
    return sorted({k.fn.__name__.removesuffix("_kernel") for k in kernels})


def _load(args: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    device = unify.device(args.device) if args.device else unify.default_device()
    if args.threads:
        device.set_option("threads", str(args.threads))
    with _progress() as show:
        path = model_path(args.model, show)
        file = ModelFile(path)
        model = Llama.load(file, device=device, progress=lambda done, size: show("load", done, size))
        return model, Tokenizer.from_file(file)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar for each thing that is done, on standard error, gone when all is done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description:10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=_console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, size: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=size or None)
            bars.update(tasks[what], completed=done, total=size or None)

        yield show
