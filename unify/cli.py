"""The command line: parsing and dispatch. What a command does stands in its own package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from . import __version__
from ._config import TABLE, settings
from .errors import Error, InvalidArgument

_Number = TypeVar("_Number", int, float)

_DEMO_MODEL = "smollm2-135m"

_DESCRIPTION = "One program on every chip: devices, streams, tensors and Triton kernels."
_EPILOG = """\
first steps:
  unify info                                        what this machine has
  unify chat                                        talk to a small language model (fetched once, 93 MB)
  unify generate --prompt "The capital of France is" --max-tokens 16 --greedy
  unify check kernels.py --targets cpu,ascend:910B3 will they compile there, and what to change
  unify compile --shipped                           what unify's own kernels cost, on any target, without a device
  unify bench --list                                what can be measured, and against whom
  unify test-backend cpu                            what every backend must do, on one

Settings from the environment: `unify info --settings`. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""
_GENERATE_EPILOG = """\
examples:
  unify generate --prompt "Once upon a time" --max-tokens 64 --temperature 0.8 --seed 1
  unify generate --model ./model.gguf --prompt "2 + 2 =" --max-tokens 8 --greedy --json
  unify generate --model ./Qwen3-8B --weights int8 --prompt "2 + 2 ="         a directory of safetensors
  unify generate --model ./tiny --prompt-ids 1,2,3                            where it has no tokenizer
  unify generate --prompt "Hello" --device cpu --threads 2
  unify generate --prompt "A poem:" --max-tokens 200 --repetition-penalty 1.1

The prompt is continued as it is; for questions and answers, `unify chat` writes the model's own frame around them.
With --json, standard output is one object: text, token_ids, prompt_tokens, prefill_tokens_per_s, decode_tokens_per_s,
device, peak_memory_mb. Rates leave out compiling and loading kernels: a prompt that needed some is timed in a second
pass over its end, after the text. The same seed gives the same text on the same device.
"""
_CHAT_EPILOG = """\
examples:
  unify chat
  unify chat --model ./model.gguf --temperature 0 --threads 4
  unify chat --prompt "What is a stream?"               one question, one answer
  echo "What is a stream?" | unify chat                 the same, from a pipe

In a chat: /help, /reset, /quit. Ctrl-C stops an answer, Ctrl-D leaves. A conversation that outgrows --max-context
forgets its oldest turns. The rates below an answer leave out compiling and loading kernels.
"""
_INFO_EPILOG = """\
examples:
  unify info                 devices, backends, and why one is absent
  unify info --json          the same for programs and bug reports
  unify info --settings      every setting: its variable, value and meaning
"""
_COMPILE_EPILOG = """\
examples:
  unify compile kernels.py                               what each annotated kernel costs on this processor
  unify compile kernels.py:add --target cuda:90 --target cuda:120 --report
  unify compile kernels.py:add --target ascend:910B3 --report
  unify compile kernels.py:add --emit asm                the assembly, on standard output
  unify compile kernels.py:add --target cuda:90 -o out --emit ttir,ptx
  unify compile kernels.py:add --type x=*fp16:16 --type n=i32 --constant BLOCK=128
  unify compile --shipped --report --target cuda:90      every kernel that unify ships

A parameter's type is its annotation, x: "*fp16", n: "i32", unless --type says otherwise; ":16" behind it promises
multiples of 16. A constexpr has its default, unless --constant says otherwise. No device is needed. The file is run, as
by import, with its package if it is in one; what it prints goes to standard error. Columns: registers of a thread,
scratch memory of a program, bytes that registers did not hold; on Ascend what a program has of a core's memory (UB, L1,
L0C) and of the device's (workspace); bytes of the binary, seconds to compile it; – where a target does not say. Files
are named KERNEL.TARGET.SUFFIX. Ascend needs `unify toolchain install ascend`.
"""
_CHECK_EPILOG = """\
examples:
  unify check kernels.py --targets cpu,cuda:90,ascend:910B3,ascend:910C,ascend:950
  unify check kernels.py:add --targets ascend:910B3 --type x=*fp16:16 --type n=i32 --constant BLOCK=128
  unify check --run train.py small --targets ascend:910B3           kernels that a program launches
  unify check --run train.py --targets ascend:910B3 -- --steps 2    its own options stand behind --
  unify check --targets cuda:90 --json kernels.py > report.json     for programs
  unify check --shipped --targets ascend:910B3                      unify's own kernels

No chip is needed: the vendors' compilers are run (Ascend's after `unify toolchain install ascend`), and what they make
of each line is read. status: ok, a binary; lowered, all but the vendor's assembler, which only CANN has; failed. For
Ascend the table has what a program takes of a core's memory (UB, L1, L0C) and of how much, whether loads overlap with
computing (doubled), which cores it runs on, and how many blocks a launch may have. Below it stands what was found, by
file and line: an error would not work there, performance is slow there, portability is different there; and what to
change, and who says so.

Types come from annotations, x: "*fp16", n: "i32" (":16" behind them: multiples of 16), and defaults of constexpr
parameters, or from --type and --constant. Under triton.autotune each configuration is tried, and one must compile. Or
they come from a real run: --run runs a program on the CPU, with CPU tensors, and checks each kind of launch that it
makes, of unify.jit kernels and plain triton.jit ones, with the largest grid seen. A kernel's file is run too, as by
import, with its package if it is in one. What it prints goes to standard error.

Exit status: 0 all compile and nothing would fail, 1 otherwise, 2 wrong usage. A kernel that is not checked, as its
types are not known, is named, with --json on standard error, and does not count. Outcomes are kept in UNIFY_CACHE_DIR.
"""
_TOOLCHAIN_EPILOG = """\
examples:
  unify toolchain                      what there is, what is installed and where
  unify toolchain install ascend       Huawei's compilers for Ascend, from PyPI: 215 MB, 0.5 GB unpacked
  unify toolchain remove ascend

Vendors' compilers that `unify compile` and simulated chips run. They need no chip and no vendor's software besides.
Versions and SHA-256 are pinned. Nothing of them enters this Python environment. UNIFY_TOOLCHAIN_DIR says where they go.
"""
_BENCH_EPILOG = """\
examples:
  unify bench --list                          the cases, and which peers are installed
  unify bench                                 every case whose peer is installed
  unify bench cpu --vs torch --plot cpu.svg   how fast kernels are on the CPU target
  unify bench rms-norm --vs torch             one case against one peer
  unify bench --vs llama.cpp --json --plot out.svg
  unify bench roofline                        what this machine can do at most

Both sides run in turns on the same cores. ratio: our speed over the peer's, above 1 is faster; its spread is shown.
"""

_TEST_EPILOG = """\
examples:
  unify test-backend opencl                            the whole suite, on opencl:0
  unify test-backend cuda:1 -k 'copy::test_fills*'     cases by name, with * for anything
  unify test-backend toy -k "graph and not launch"     cases by an expression of pytest's
  unify test-backend toy --list                        the names of the cases
  unify test-backend toy --spec my_package.spec:spec   with kernels and exceptions of your own
  unify test-backend toy --json --junit report.xml     for programs, and for a CI server

A case is skipped where the device itself says what it lacks, or the backend's spec does, with the reason. One that ends
its process fails, and the others run on. The spec, a unify.testing.Spec, is found by an entry point of the group
unify.conformance that is named as the backend. Exit status: 0 nothing failed, 1 something did. Needs pytest:
pip install 'unify-runtime[test]'.
"""
_NEW_EPILOG = """\
examples:
  unify new-backend mychip                        writes ./unify-mychip
  unify new-backend mychip --directory ~/src      writes ~/src/unify-mychip
  unify test-backend mychip                       after pip install --no-build-isolation -e ./unify-mychip

What is written is whole: a backend in C whose devices are pieces of the host's memory, an entry point, a spec for the
conformance suite, and a README with the next steps. It passes what a backend must do; replace it function by function.
"""


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

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _new(_Parser, "unify", _DESCRIPTION, _EPILOG)
    parser.add_argument("--version", action="version", version=f"unify {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_chat(commands)
    _add_generate(commands)
    _add_compile(commands)
    _add_check(commands)
    _add_toolchain(commands)
    _add_bench(commands)
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
    parser = _new(commands.add_parser, "info", about, _INFO_EPILOG, help="what this machine has, and what is set")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--settings", action="store_true", help="the settings only")
    parser.set_defaults(run=_info)


def _add_chat(commands: Any) -> None:
    about = "Talk to a language model, computed by unify's own kernels."
    parser = _new(commands.add_parser, "chat", about, _CHAT_EPILOG, help="talk to a language model")
    _add_model(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="ask this one question and end")
    parser.add_argument(
        "--max-tokens", type=_count, default=512, metavar="N", help="of one answer (default: %(default)s)"
    )
    parser.add_argument(
        "--max-context", type=_count, default=4096, metavar="N", help="of the whole conversation (default: %(default)s)"
    )
    # The model card of SmolLM2 asks for 0.2 and 0.9; with them a small model repeats itself without a penalty.
    _add_sampling(parser, temperature=0.2, top_p=0.9, repetition_penalty=1.15)
    parser.set_defaults(run=_chat)


def _add_generate(commands: Any) -> None:
    about = "Continue a text."
    parser = _new(commands.add_parser, "generate", about, _GENERATE_EPILOG, help="continue a text")
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
        "--speculate", action="store_true", help="with --greedy: guess a second token by the model's own layer for it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with text, tokens and speed")
    parser.set_defaults(run=_generate)


def _add_compile(commands: Any) -> None:
    about = "Compile kernels for any target, without a device, and say what they cost."
    parser = _new(commands.add_parser, "compile", about, _COMPILE_EPILOG, help="compile kernels, for any target")
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


class _Program(argparse.Action):
    """--run takes what stands behind it for the program's arguments, so files before it would be lost among them."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if namespace.files:
            parser.error(f"give either --run {values[0]} or {namespace.files[0]}, in two calls")
        setattr(namespace, self.dest, values)


def _add_check(commands: Any) -> None:
    about = "Say for each kernel and target whether it compiles, and what to change."
    parser = _new(commands.add_parser, "check", about, _CHECK_EPILOG, help="will kernels work on other targets")
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
    parser = _new(commands.add_parser, "toolchain", about, _TOOLCHAIN_EPILOG, help="install vendors' compilers")
    parser.add_argument("action", nargs="?", choices=("list", "install", "remove"), default="list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a toolchain: ascend")
    parser.add_argument("--json", action="store_true", help="list: print a list of objects; install: no progress")
    parser.set_defaults(run=_toolchain)


def _add_bench(commands: Any) -> None:
    about = "Compare unify with its peers, in one run on the same cores."
    parser = _new(commands.add_parser, "bench", about, _BENCH_EPILOG, help="compare with torch and llama.cpp")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="cases by name or a part of it, cpu, or a file of cases; default: all"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    parser.add_argument("--vs", metavar="PEER", help="one peer: torch, llama.cpp ... (default: the first installed)")
    _add_place(parser)
    parser.add_argument("--model", metavar="FILE", help="the GGUF file of cases that need one")
    parser.add_argument("--repeats", type=_count, metavar="N", help="pairs to measure (default: as the case says)")
    parser.add_argument("--plot", metavar="FILE", help="write a plot, as .svg or .png")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one for each case")
    parser.set_defaults(run=_bench)


def _add_test_backend(commands: Any) -> None:
    about = "Run the conformance suite on a device: what every backend must do."
    parser = _new(
        commands.add_parser, "test-backend", about, _TEST_EPILOG, help="run the conformance suite on a device"
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
    parser = _new(commands.add_parser, "new-backend", about, _NEW_EPILOG, help="write the skeleton of a backend")
    parser.add_argument("name", metavar="NAME", help="of the backend, as in NAME:0: small letters, digits and _")
    parser.add_argument("--directory", default=".", metavar="D", help="where unify-NAME is made (default: here)")
    parser.set_defaults(run=_new_backend)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=_DEMO_MODEL, metavar="NAME|PATH",
        help="a known model, a GGUF file, or a directory of safetensors (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=("int8", "int4", "fp8"), help="quantise a directory's matrices as they are read"
    )
    _add_place(parser)


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
        "--repetition-penalty",
        type=_above_zero,
        default=repetition_penalty,
        metavar="X",
        help="divides what was written of late; 1: none (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=_natural, default=0, metavar="S", help="the same seed, the same text (default: %(default)s)"
    )


def _natural(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number from 0")


def _count(text: str) -> int:
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def _token_ids(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of token numbers like 1,2,3") from None


def _at_least_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number from 0")


def _above_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


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


def _bench(args: argparse.Namespace) -> int:
    from .bench import cli

    return cli.run(args)


def _test_backend(args: argparse.Namespace) -> int:
    from .testing import run

    return run.command(args)


def _new_backend(args: argparse.Namespace) -> int:
    from .testing import skeleton

    return skeleton.command(args)


if __name__ == "__main__":
    sys.exit(main())
