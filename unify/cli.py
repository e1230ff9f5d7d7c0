"""The command line: parsing and dispatch. What a command does stands in its own package."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from . import __version__, _help
from ._config import TABLE, settings
from .errors import Error, InvalidArgument

_Number = TypeVar("_Number", int, float)

_DEMO_MODEL = "smollm2-135m"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. Never shows a traceback for an error of the caller's."""
    try:
        args = _parser().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader went away (`unify info | head`): nothing is left to say
        _discard_output()
        return 0
    except Error as error:
        print(f"unify: {error}", file=sys.stderr)
        # Wrong usage, or tried and failed: docs/api.md, "Exit statuses".
        return 2 if isinstance(error, InvalidArgument) or getattr(error, "is_unknown", False) else 1
    except OSError as error:  # a full disk, say
        _discard_output()
        print(f"unify: {error.filename or 'standard output'}: {error.strerror or error}.", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Otherwise Python tries again at exit to write what is left, and says so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong and where help is, in place of a page of usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # a value, -1,2 too: no option begins with a digit

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.replace(' ', ': ', 1)}: {message}. See `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _new(_Parser, "unify", _help.DESCRIPTION, _help.EPILOG)
    parser.add_argument("--version", action="version", version=f"unify {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_chat(commands)
    _add_generate(commands)
    _add_compile(commands)
    _add_check(commands)
    _add_toolchain(commands)
    _add_simulate(commands)
    _add_bench(commands)
    _add_ops(commands)
    _add_tune(commands)
    _add_test_backend(commands)
    _add_new_backend(commands)
    return parser


def _new(make: Any, name: str, description: str, epilog: str, **options: Any) -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = make(
        name, description=description, epilog=epilog, formatter_class=style, **options
    )
    return parser


def _add_info(commands: Any) -> None:
    about = "Show devices, backends and why one is absent, versions and settings."
    parser = _new(commands.add_parser, "info", about, _help.INFO_EPILOG, help="what this machine has, and what is set")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--settings", action="store_true", help="the settings only")
    parser.set_defaults(run=_info)


def _add_chat(commands: Any) -> None:
    about = "Talk to a language model, computed by unify's own kernels."
    parser = _new(commands.add_parser, "chat", about, _help.CHAT_EPILOG, help="talk to a language model")
    _add_model(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="ask this one question and end")
    parser.add_argument(
        "--max-tokens", type=_count, default=512, metavar="N", help="of one answer (default: %(default)s)"
    )
    parser.add_argument(
        "--max-context", type=_count, metavar="N",
        help="of the whole conversation (default: 4096, or the model's own if those are less)",
    )  # fmt: skip
    # The model card of SmolLM2 asks for 0.2 and 0.9; with them a small model repeats itself without a penalty.
    _add_sampling(parser, temperature=0.2, top_p=0.9, repetition_penalty=1.1)
    parser.set_defaults(run=_chat)


def _add_generate(commands: Any) -> None:
    about = "Continue a text."
    parser = _new(commands.add_parser, "generate", about, _help.GENERATE_EPILOG, help="continue a text")
    _add_model(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the text to continue, taken as it is")
    prompt.add_argument(
        "--prompt-ids", type=_token_ids, metavar="1,2,3", help="its tokens, for a directory without a tokenizer"
    )
    parser.add_argument(
        "--max-tokens", type=_count, default=64, metavar="N", help="stop after N (default: %(default)s)"
    )
    _add_sampling(parser, temperature=0.8, top_p=0.95, repetition_penalty=1.0)  # llama.cpp's
    parser.add_argument(
        "--speculate", action="store_true",
        help="with --greedy: guess a second token by the model's own layer for it, the first one if it has several",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object with text, tokens and speed")
    parser.set_defaults(run=_generate)


def _add_compile(commands: Any) -> None:
    about = "Compile kernels for any target, without a device, and say what they cost."
    parser = _new(commands.add_parser, "compile", about, _help.COMPILE_EPILOG, help="compile kernels, for any target")
    parser.add_argument(
        "file", nargs="?", metavar="FILE.py[:KERNEL]", help="a kernel; without its name, all that are annotated"
    )
    parser.add_argument("--shipped", action="store_true", help="the kernels of unify.ops in place of a file's")
    parser.add_argument(
        "--target",
        action="append",
        metavar="T",
        help="cpu, cuda:90, ascend:910B3, ...; once for each (default: cpu, this machine)",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="write the binaries there, and what --emit names")
    parser.add_argument("--emit", metavar="STAGE,...", help="texts on the way: ttir, llvm, asm, ptx, as the target has")
    parser.add_argument("--type", action="append", metavar="NAME=TYPE", help="a parameter's type, *fp32 or i32 say")
    parser.add_argument("--constant", action="append", metavar="NAME=VALUE", help="a constexpr's value")
    parser.add_argument("--num-warps", type=_count, metavar="N", help="warps of a program (default: 4)")
    parser.add_argument("--num-stages", type=_count, metavar="N", help="loads that a loop keeps in flight (default: 3)")
    parser.add_argument("--report", action="store_true", help="print the table, also where texts or files come out")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one for each kernel and target")
    parser.set_defaults(run=_compile)


class _Biases(argparse.Action):
    """Gathers biases by token; of two for one token, one would be lost."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        token, bias = values
        found = getattr(namespace, self.dest) or {}
        if token in found:
            raise argparse.ArgumentError(self, f"token {token} has two of them, {found[token]:g} and {bias:g}")
        setattr(namespace, self.dest, {**found, token: bias})


class _Program(argparse.Action):
    """--run takes what stands behind it for the program's arguments, so files before it would be lost among them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if namespace.files:
            parser.error(f"give either --run {values[0]} or {namespace.files[0]}, in two calls")
        setattr(namespace, self.dest, values)


def _add_check(commands: Any) -> None:
    about = "Say for each kernel and target whether it compiles, and what to change."
    parser = _new(commands.add_parser, "check", about, _help.CHECK_EPILOG, help="will kernels work on other targets")
    parser.add_argument(
        "files", nargs="*", metavar="FILE.py[:KERNEL]", help="a kernel; without its name, all of a file"
    )
    parser.add_argument(
        "--targets", "--target", action="append", metavar="T,...", help="cpu, cuda:90, ascend:910B3, ... (default: cpu)"
    )
    parser.add_argument(
        "--run", nargs="+", dest="program", metavar="PROGRAM.py", action=_Program,
        help="check what this program launches; its arguments",
    )  # fmt: skip
    parser.add_argument("--shipped", action="store_true", help="the kernels of unify.ops in place of a file's")
    parser.add_argument("--type", action="append", metavar="NAME=TYPE", help="a parameter's type, *fp32 or i32 say")
    parser.add_argument("--constant", action="append", metavar="NAME=VALUE", help="a constexpr's value")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one for each kernel and target")
    parser.set_defaults(run=_check)


def _add_toolchain(commands: Any) -> None:
    about = "Install vendors' compilers, for targets that need them."
    parser = _new(commands.add_parser, "toolchain", about, _help.TOOLCHAIN_EPILOG, help="install vendors' compilers")
    parser.add_argument("action", nargs="?", choices=("list", "install", "remove"), default="list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a toolchain: ascend")
    parser.add_argument("--json", action="store_true", help="list: print a list of objects; install: no progress")
    parser.set_defaults(run=_toolchain)


def _add_simulate(commands: Any) -> None:
    about = "Run a program that uses torch_npu on Ascend chips that are not there."
    parser = _new(commands.add_parser, "simulate", about, _help.SIMULATE_EPILOG, help="run what is for Ascend chips")
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    ascend = _new(kinds.add_parser, "ascend", about, _help.SIMULATE_EPILOG, help="Huawei's chips, for torch_npu")
    ascend.add_argument("command", nargs="*", metavar="-- PROGRAM", help="python program.py, torchrun ...: as always")
    ascend.add_argument("--install", action="store_true", help="fetch what is needed first, if it is not there")
    ascend.add_argument("--soc", default="910B3", metavar="CHIP", help="910B1 to 910B4, 910C, 950 (default: 910B3)")
    ascend.add_argument("--devices", type=_count, default=1, metavar="N", help="how many (default: %(default)s)")
    ascend.add_argument("--memory", metavar="64G", help="of each (default: what the chip has)")
    ascend.add_argument(
        "--fault", action="append", metavar="DEVICE:CALL:AFTER:WHAT",
        help="let a device fail at a call after so many of them, or after seconds; can be given many times",
    )  # fmt: skip
    ascend.add_argument("--trace", metavar="FILE", help="write what each stream did, for ui.perfetto.dev")
    ascend.add_argument("--report", metavar="FILE", help="write the report as JSON too")
    ascend.add_argument("--json", action="store_true", help="the report on standard error is one JSON object")
    ascend.set_defaults(run=_simulate)


def _add_bench(commands: Any) -> None:
    about = "Compare unify with its peers, in one run on the same cores."
    parser = _new(commands.add_parser, "bench", about, _help.BENCH_EPILOG, help="compare with torch and llama.cpp")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="cases by name or a part of it, cpu, or a file of cases; default: all"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    parser.add_argument("--vs", metavar="PEER", help="one peer: torch, llama.cpp ... (default: the first installed)")
    _add_place(parser)
    parser.add_argument("--model", metavar="FILE", help="the GGUF file of cases that need one")
    parser.add_argument("--repeats", type=_count, metavar="N", help="pairs to measure (default: as the case says)")
    parser.add_argument("--plot", metavar="FILE", help="write a plot, as .svg, .png or .pdf")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one for each case")
    parser.set_defaults(run=_bench)


def _add_ops(commands: Any) -> None:
    about = "List the operators, and what a large model's calls of them cost at least on a chip."
    parser = _new(commands.add_parser, "ops", about, _help.OPS_EPILOG, help="the operators, and what they cost")
    parser.add_argument("op", nargs="?", metavar="OP", help="one of them: its arguments, in full")
    parser.add_argument("--roofline", action="store_true", help="what DeepSeek-V3's calls compute and move at least")
    group = parser.add_argument_group("with --roofline")
    group.add_argument("--target", metavar="T", help="cuda:90, ascend:910C ...; cpu is measured (default)")
    group.add_argument("--batch", type=_count, metavar="N", help="sequences of a decoding step (default: 64)")
    group.add_argument("--context", type=_count, metavar="N", help="tokens that each of them has (default: 8192)")
    group.add_argument("--tokens", type=_count, metavar="N", help="of a prompt (default: 4096)")
    group.add_argument("--weights", choices=("bf16", "fp8", "int8", "int4"), help="default: fp8")
    group.add_argument("--plot", metavar="FILE", help="draw it, as .svg, .png or .pdf")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.set_defaults(run=_ops)


def _add_tune(commands: Any) -> None:
    about = "Measure tiles of kernels with the shapes of a model or a program; the fastest are kept for this device."
    parser = _new(commands.add_parser, "tune", about, _help.TUNE_EPILOG, help="measure what kernels are fastest with")
    parser.add_argument("program", nargs="?", metavar="PROGRAM.py", help="a program that calls unify.ops")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the program's own")
    parser.add_argument("--model", metavar="NAME|PATH", help="a model in place of a program, as for `unify generate`")
    _add_quantization(parser)
    parser.add_argument("--tokens", type=_count, nargs="+", metavar="N", help="of its prompts (default: 128 512)")
    parser.add_argument(
        "--sequences", type=_count, nargs="+", metavar="N",
        help="that it writes at a time, as a Batch of so many rows does (default: 1 8)",
    )  # fmt: skip
    parser.add_argument(
        "--max-context", type=_count, metavar="N",
        help="tokens that each sequence's cache has room for, as for `unify chat` (default: 4096)",
    )  # fmt: skip
    parser.add_argument("--device", metavar="D", help="a device of `unify info` (default: UNIFY_DEVICE, else cpu)")
    parser.add_argument("--forget", action="store_true", help="forget what was measured on devices like this")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.set_defaults(run=_tune)


def _add_test_backend(commands: Any) -> None:
    about = "Run the conformance suite on a device: what every backend must do."
    parser = _new(
        commands.add_parser, "test-backend", about, _help.TEST_EPILOG, help="run the conformance suite on a device"
    )
    parser.add_argument("device", metavar="NAME", help="a backend or one of its devices: opencl, toy:1")
    parser.add_argument("--spec", metavar="M:A", help="module:attribute of a unify.testing.Spec")
    parser.add_argument("-k", dest="select", metavar="EXPR", help="only these: concept::test_name*, or as pytest's -k")
    parser.add_argument(
        "--timeout", type=_above_zero, default=60.0, metavar="S",
        help="a case that takes longer hangs: it fails, and the others run on (default: %(default)g s)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--junit", metavar="FILE", help="write the results as JUnit XML too")
    parser.set_defaults(run=_test_backend)


def _add_new_backend(commands: Any) -> None:
    about = "Write the skeleton of a backend: a package that builds and passes the suite at once."
    parser = _new(commands.add_parser, "new-backend", about, _help.NEW_EPILOG, help="write the skeleton of a backend")
    parser.add_argument("name", metavar="NAME", help="of the backend, as in NAME:0: small letters, digits and _")
    parser.add_argument("--directory", default=".", metavar="D", help="where unify-NAME is made (default: here)")
    parser.set_defaults(run=_new_backend)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=_DEMO_MODEL, metavar="NAME|PATH",
        help="a known model, a GGUF file, or a directory of safetensors (default: %(default)s)",
    )  # fmt: skip
    _add_quantization(parser)
    _add_place(parser)


def _add_quantization(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", choices=("int8", "int4", "fp8"), help="quantise a directory's matrices as they are read"
    )
    parser.add_argument(
        "--activations", choices=("int8", "fp8"),
        help="quantise what is multiplied with them, token by token: int8 with int8 and int4 weights, fp8 with fp8 "
        "ones (default: as it is, which is exacter, whatever config.json says of an activation_scheme)",
    )  # fmt: skip


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="a device of `unify info` (default: UNIFY_DEVICE, else cpu)")
    parser.add_argument("--threads", type=_count, metavar="T", help="of the cpu device (default: one for each core)")


def _add_sampling(
    parser: argparse.ArgumentParser, *, temperature: float, top_p: float, repetition_penalty: float
) -> None:
    group = parser.add_argument_group("choice of the next token")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="always the likeliest")
    how.add_argument(
        "--temperature", type=_at_least_zero, default=temperature, metavar="X",
        help="0 is greedy, 1 is as the model learned (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--top-k", type=_natural, default=40, metavar="K", help="of the K likeliest; 0: all (default: %(default)s)"
    )
    group.add_argument(
        "--top-p",
        type=_probability,
        default=top_p,
        metavar="P",
        help="of the likeliest that make up P (default: %(default)s)",
    )
    group.add_argument(
        "--min-p",
        type=_share,
        default=0.0,
        metavar="P",
        help="none less likely than P times the likeliest; 0: all (default: %(default)s)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=_above_zero,
        default=repetition_penalty,
        metavar="X",
        help="divides the logits of tokens that are in the prompt or the text, or multiplies them below 0 (Keskar et "
        "al. 2019, CTRL, as in transformers); usual: from 1, which is none, to 1.3 (default: %(default)s)",
    )
    group.add_argument(
        "--frequency-penalty", type=_finite, default=0.0, metavar="X",
        help="takes X from a token's logit for each time that it was written, not counting the prompt (OpenAI's); "
        "usual: -2 to 2, 0: none (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--presence-penalty", type=_finite, default=0.0, metavar="X",
        help="takes X once from the logit of each token that was written, not counting the prompt (OpenAI's); "
        "usual: -2 to 2, 0: none (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--logit-bias", type=_bias, action=_Biases, metavar="ID:VALUE",
        help="adds VALUE to the logit of token number ID; usual: -100, which all but bans it, to 100, which lets "
        "little else come; -inf bans it; can be given many times",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=_natural, default=0, metavar="S", help="the same seed, the same text (default: %(default)s)"
    )


def _natural(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number from 0")


def _count(text: str) -> int:
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def _token_ids(text: str) -> list[int]:
    try:
        ids = [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of token numbers like 1,2,3") from None
    if min(ids) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} has the number {min(ids)}; tokens are numbered from 0")
    return ids


def _at_least_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number from 0")


def _above_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def _finite(text: str) -> float:
    return _number(text, float, lambda value: abs(value) < float("inf"), "a finite number")


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition(":")
    try:
        return _natural(token), _number(value, float, lambda value: value < float("inf"), "a number, or -inf")
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no token and a number, or -inf, like 42:-5") from None


def _share(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _probability(text: str) -> float:
    return _number(text, float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def _number(text: str, kind: Callable[[str], _Number], accepts: Callable[[_Number], bool], expected: str) -> _Number:
    try:
        value = kind(text)
    except ValueError:
        pass
    else:
        if accepts(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")


# Commands import their package when they run: `unify --help` is instant and works where a part is broken.


def _info(args: argparse.Namespace) -> int:
    if args.settings:
        _print_settings(as_json=args.json)
        return 0
    from . import _info

    if args.json:
        import json

        print(json.dumps(_info.info(), indent=2))
    else:
        print(_info.as_text(_info.info()))
    return 0


def _print_settings(*, as_json: bool) -> None:
    rows = {setting.variable: (getattr(settings, name), setting.meaning) for name, setting in TABLE.items()}
    if as_json:
        import json

        print(
            json.dumps(
                {name: {"value": value, "meaning": meaning} for name, (value, meaning) in rows.items()},
                indent=2,
                default=str,
            )
        )
        return
    shown = {name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, (value, _) in rows.items()}
    columns = [max(map(len, column)) + 2 for column in (shown, shown.values())]
    for variable, (_, meaning) in rows.items():
        print(f"{variable:{columns[0]}}{shown[variable] or '-':{columns[1]}}{meaning}")


def _chat(args: argparse.Namespace) -> int:
    from .models import cli

    return cli.chat(args)


def _generate(args: argparse.Namespace) -> int:
    from .models import cli

    return cli.generate(args)


def _compile(args: argparse.Namespace) -> int:
    from . import _report

    return _report.run(args)


def _check(args: argparse.Namespace) -> int:
    from .check import cli

    return cli.run(args)


def _toolchain(args: argparse.Namespace) -> int:
    from .compiler import toolchain

    if args.action != "list" and args.name is None:
        known = ", ".join(chosen.name for chosen in toolchain.toolchains())
        raise InvalidArgument(f"toolchain {args.action}: say which one: {known}.")
    if args.action == "install":
        print(f"{args.name} is in {toolchain.install(args.name, quiet=args.json)}")
    elif args.action == "remove":
        print(f"{args.name} is removed" if toolchain.remove(args.name) else f"{args.name} was not installed")
    else:
        _print_toolchains(toolchain.toolchains(), as_json=args.json)
    return 0


def _print_toolchains(chosen: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        import json

        fields = ("name", "about", "version", "megabytes", "is_installed", "damage")
        rows = [{field: getattr(one, field) for field in fields} | {"folder": str(one.folder)} for one in chosen]
        print(json.dumps(rows, indent=2))
        return
    for one in chosen:
        state = str(one.folder) if one.is_installed else "not installed"
        if one.damage:
            state = f"{one.folder}, damaged: {one.damage}; `unify toolchain install {one.name}` mends it"
        print(f"{one.name}  {one.about}, {one.version}: {state}")


def _simulate(args: argparse.Namespace) -> int:
    from .simulator import cli

    return cli.run(args)


def _bench(args: argparse.Namespace) -> int:
    from .bench import cli

    return cli.run(args)


def _ops(args: argparse.Namespace) -> int:
    from .bench import ops

    return ops.run(args)


def _tune(args: argparse.Namespace) -> int:
    from .bench import tune

    return tune.run(args)


def _test_backend(args: argparse.Namespace) -> int:
    from .testing import run

    return run.command(args)


def _new_backend(args: argparse.Namespace) -> int:
    from .testing import skeleton

    return skeleton.command(args)


if __name__ == "__main__":
    sys.exit(main())
