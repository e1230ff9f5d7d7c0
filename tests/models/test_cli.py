"""`unify chat` in a pipe, and what `unify generate` writes, on the tiny model."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import unify
from unify import models
from unify.cli import main
from unify.models import cli as models_cli
from unify.models.chat import FIRST_START, first_text, statistics
from unify.models.generate import Answer, Sampling

from ..conftest import Run
from .conftest import write_model
from .tiny_models import peer_logits, peer_of, write_tiny


@pytest.mark.parametrize(
    ("given", "asked"), [("What is 2+2?\n", "What is 2+2?"), ("", "What is the capital"), ("é 漢", "é 漢")]
)
def test_without_a_terminal_one_question_is_asked(python: Run, tiny_path: Path, given: str, asked: str) -> None:
    finished = python("-m", "unify", "chat", "--model", str(tiny_path), "--max-tokens", "9", input=given)
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"> {asked}")
    assert "9 written at" in finished.stdout
    assert finished.stderr in ("", f"{FIRST_START}\n")


def test_a_prompt_on_the_command_line_needs_no_input(python: Run, tiny_path: Path) -> None:
    finished = python("-m", "unify", "chat", "--model", str(tiny_path), "--max-tokens", "9", "--prompt", "Hm?")
    assert finished.stdout.startswith("> Hm?\n")


def test_json_is_one_object_and_nothing_else(python: Run, tiny_path: Path) -> None:
    argv = ["--model", str(tiny_path), "--prompt", "the answer", "--max-tokens", "12", "--greedy", "--json"]
    finished = python("-m", "unify", "generate", *argv)
    assert finished.stderr in ("", f"{FIRST_START}\n")
    assert finished.stdout.count("\n") == 1
    told = json.loads(finished.stdout)
    assert list(told) == [
        "text", "token_ids", "prompt_tokens", "prefill_tokens_per_s", "decode_tokens_per_s", "device", "simulated",
        "peak_memory_mb",
    ]  # fmt: skip
    model, tokenizer = models.load(str(tiny_path))
    ids = tokenizer.encode("the answer")
    expected = models.Generator(model, tokenizer, max_context=64).generate(ids, 12)
    assert (told["text"], told["token_ids"]) == (expected.text, expected.token_ids)
    assert (told["prompt_tokens"], told["device"]) == (len(ids), "cpu")
    assert min(told["prefill_tokens_per_s"], told["decode_tokens_per_s"], told["peak_memory_mb"]) > 0


class _Heard(io.StringIO):
    """A stream that tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def flush(self) -> None:
        self.event.set()


def test_a_first_piece_that_takes_long_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    heard = _Heard()
    monkeypatch.setattr(sys, "stderr", heard)
    with first_text(written.append, after_s=0.01) as write:
        assert heard.event.wait(60)
        write("text")
    assert (heard.getvalue(), written) == (f"{FIRST_START}\n", ["text"])
    with first_text(written.append, after_s=0.01, is_shown=True) as write:
        write("more")
    assert (heard.getvalue(), written) == (f"{FIRST_START}\n", ["text", "more"])


def test_the_rates_of_a_simulated_device_say_so() -> None:
    class Chip:
        properties: ClassVar = {"simulated": True}

        def __str__(self) -> str:
            return "ascend:0"

    generator: Any = SimpleNamespace(model=SimpleNamespace(device=Chip()))
    assert "tokens/s, ascend:0 (simulated), " in statistics(Answer(), generator)


def at_a_terminal(argv: list[str]) -> tuple[bytes, bytes]:
    """What unify writes to a pipe, and to a terminal as its standard error."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "unify", *argv], stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # EIO at the other side's end
            while part := terminal.read(4096):
                shown += part
        assert process.stdout is not None
        return process.stdout.read(), shown


def test_json_shows_progress_where_standard_error_is_a_terminal(tiny_path: Path) -> None:
    argv = ["generate", "--model", str(tiny_path), "--prompt", "x", "--max-tokens", "2", "--json"]
    written, shown = at_a_terminal(argv)
    assert json.loads(written)["prompt_tokens"] > 0
    assert b"compiling kernels and generating" in shown


def test_text_and_statistics_are_apart(python: Run, tiny_path: Path) -> None:
    argv = ["--model", str(tiny_path), "--prompt", "the answer", "--max-tokens", "12", "--seed", "4"]
    finished, again = (python("-m", "unify", "generate", *argv, encoding="utf-8") for _ in range(2))
    assert finished.stdout.startswith("the answer")
    assert finished.stdout == again.stdout
    assert re.match(r"\d+ prompt tokens at .*\nkernels: .*\n\Z", finished.stderr)


def test_a_terminal_that_lacks_the_letters_is_no_error(python: Run, tiny_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    argv = ["--model", str(tiny_path), "--prompt", "漢", "--max-tokens", "60", "--seed", "4"]
    finished = python("-m", "unify", "generate", *argv, env=environment)
    assert (finished.returncode, finished.stdout[0]) == (0, "?")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--prompt", ""], "the prompt has no tokens"),
        (["--prompt", "x", "--max-tokens", "600"], "1 prompt tokens and --max-tokens 600 do not fit into this model's"),
        (["--prompt", os.fsdecode(b"a\xff")], "no Unicode: a lone surrogate at character 1"),
    ],
)
def test_a_prompt_that_cannot_be_is_one_line_and_status_2(
    python: Run, tiny_path: Path, argv: list[str], told: str
) -> None:
    finished = python("-m", "unify", "generate", "--model", str(tiny_path), *argv)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("unify: ")
    assert told in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_conversation_longer_than_the_model_can_do_is_refused(python: Run, tiny_path: Path) -> None:
    finished = python("-m", "unify", "chat", "--model", str(tiny_path), "--prompt", "x", "--max-context", "513")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "--max-context 513 is more than the 512 tokens of this model" in finished.stderr


def test_an_interrupted_generate_ends_with_130(tmp_path: Path) -> None:
    path = write_model(tmp_path / "endless.gguf", changes={"llama.context_length": 400_000})
    argv = ["generate", "--model", str(path), "--prompt", "x", "--max-tokens", "300000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unify", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert len(process.stdout.read(200)) == 200
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120.0)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if b"a first start compiles" not in line] == []


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of safetensors without a tokenizer."""
    return write_tiny(tmp_path_factory.mktemp("directory") / "m", "Qwen3")


def test_a_directory_continues_token_numbers(python: Run, directory: Path) -> None:
    argv = ["--model", str(directory), "--prompt-ids", "5,90,17", "--max-tokens", "12", "--greedy"]
    finished = python("-m", "unify", "generate", *argv, "--json")
    told = json.loads(finished.stdout)
    text, ids = [5, 90, 17], told["token_ids"]
    expected = peer_logits(peer_of(directory), text + ids)[len(text) - 1 : -1].argmax(-1).tolist()
    assert (ids, told["prompt_tokens"]) == (expected, 3)
    assert told["text"] == "".join(f" {token}" for token in ids)
    assert python("-m", "unify", "generate", *argv).stdout == f" 5 90 17{told['text']}\n"


def test_a_bar_shows_each_shard_where_standard_error_is_a_terminal(directory: Path) -> None:
    argv = ["generate", "--model", str(directory), "--prompt-ids", "1", "--max-tokens", "1", "--greedy"]
    written, shown = at_a_terminal(argv)
    assert written.startswith(b" 1 ")
    assert b"model-00001-of-" in shown


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--prompt", "hello"], "has no tokenizer.json"),
        (["--prompt-ids", "1,x"], "'1,x' is no list of token numbers"),
        (["--prompt-ids", ""], "'' is no list of token numbers"),
        (["--prompt-ids", "97"], "the token 97, outside the vocabulary of 97"),
        (["--prompt-ids", "-1"], "argument --prompt-ids: '-1' has the number -1; tokens are numbered from 0"),
        (["--prompt-ids", "-1,2"], "argument --prompt-ids: '-1,2' has the number -1"),
        (["--prompt-ids", "1", "--prompt", "x"], "not allowed with argument --prompt"),
        ([], "one of the arguments --prompt --prompt-ids is required"),
        (["--prompt-ids", "1", "--weights", "int3"], "invalid choice: 'int3'"),
        (["--prompt-ids", "1", "--weights", "int8", "--activations", "int4"], "invalid choice: 'int4'"),
        (["--prompt-ids", "1", "--activations", "int8"], "activations in int8 go with weights in int8 or int4"),
        (["--prompt-ids", "1", "--speculate", "--temperature", "1"], "--speculate writes the likeliest tokens only"),
        (["--prompt-ids", "1", "--speculate", "--greedy", "--logit-bias", "1:1"], "no penalties and no bias"),
        (["--prompt-ids", "1", "--speculate", "--greedy"], "a layer that predicts a second token"),
    ],
)
def test_what_a_directory_cannot_continue_is_said_with_status_2(
    python: Run, directory: Path, argv: list[str], told: str
) -> None:
    finished = python("-m", "unify", "generate", "--model", str(directory), *argv)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert told in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_chat_without_a_tokenizer_names_what_takes_numbers(python: Run, directory: Path) -> None:
    finished = python("-m", "unify", "chat", "--model", str(directory), "--prompt", "x")
    assert finished.returncode == 2
    assert "has no tokenizer.json, so that no text can be read. Give it numbers: `unify generate --prompt-ids" in (
        finished.stderr
    )


@pytest.mark.parametrize("file", ["config.json", "model-00001-of-"])
def test_one_file_of_a_directory_is_not_the_model(python: Run, directory: Path, file: str) -> None:
    (path,) = (path for path in directory.iterdir() if path.name.startswith(file))
    finished = python("-m", "unify", "generate", "--model", str(path), "--prompt-ids", "1")
    assert finished.returncode == 2
    assert f"{path.name} is one file of a model. Give their directory: {directory}" in finished.stderr


def test_weights_of_a_file_are_not_quantised_again(python: Run, tiny_path: Path) -> None:
    finished = python("-m", "unify", "generate", "--model", str(tiny_path), "--prompt", "x", "--weights", "int8")
    assert finished.returncode == 2
    assert "a GGUF file has them as it was made" in finished.stderr
    finished = python("-m", "unify", "generate", "--model", str(tiny_path), "--prompt", "x", "--activations", "int8")
    assert finished.returncode == 2
    assert "a GGUF file's activations always become codes of 16 bits" in finished.stderr


def test_weights_and_activations_are_quantised_on_request(python: Run, directory: Path) -> None:
    argv = ["--model", str(directory), "--prompt-ids", "5,90,17", "--max-tokens", "12", "--greedy", "--json"]
    finished = python("-m", "unify", "generate", *argv, "--weights", "int8", "--activations", "int8")
    model, tokenizer = models.load(str(directory), weights="int8", activations="int8")
    expected = models.Generator(model, tokenizer, max_context=64).generate([5, 90, 17], 12)
    assert json.loads(finished.stdout)["token_ids"] == expected.token_ids


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_every_setting_of_sampling_has_an_option(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    given = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.75, "min_p": 0.125, "repetition_penalty": 1.25,
        "frequency_penalty": -0.5, "presence_penalty": 1.5, "seed": 9, "logit_bias": {5: -2.5, 90: -float("inf")},
    }  # fmt: skip
    assert given.keys() == {field.name for field in fields(Sampling)}
    received: list[Any] = []
    monkeypatch.setattr(models_cli, command, lambda args: received.append(args) or 0)
    options = [
        text
        for name, value in given.items()
        for one in (map("{0[0]}:{0[1]}".format, value.items()) if isinstance(value, dict) else [value])
        for text in (f"--{name.replace('_', '-')}", str(one))
    ]
    assert main([command, "--prompt", "x", *options]) == 0
    assert models_cli._sampling(received[0]) == Sampling(**given)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--repetition-penalty", "0", "'0' is not a number above 0"),
        ("--frequency-penalty", "nan", "'nan' is not a finite number"),
        ("--presence-penalty", "x", "'x' is not a finite number"),
        ("--logit-bias", "5", "'5' is no token and a number, or -inf, like 42:-5"),
        ("--logit-bias", "5:inf", "'5:inf' is no token and a number, or -inf, like 42:-5"),
        ("--logit-bias", "x:5", "'x:5' is no token and a number, or -inf, like 42:-5"),
    ],
)
def test_a_setting_that_is_none_is_named(
    capsys: pytest.CaptureFixture[str], option: str, value: str, told: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--prompt", "x", option, value])
    assert f"argument {option}: {told}" in capsys.readouterr().err


def test_two_biases_of_one_token_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--prompt", "x", "--logit-bias", "7:1", "--logit-bias", "8:1", "--logit-bias", "7:-inf"])
    assert "argument --logit-bias: token 7 has two of them, 1 and -inf" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["generate", "--greedy"], ["chat", "--temperature", "0"]], ids=" ".join)
def test_an_error_midway_begins_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_path: Path, argv: list[str]
) -> None:
    decode = models.Generator._decode

    def fail(self: models.Generator, token: int) -> int:
        if self.cache.length % 8 == 0:
            raise unify.DeviceLost("cpu: gone.")
        return decode(self, token)

    monkeypatch.setattr(models.Generator, "_decode", fail)
    assert main([*argv, "--model", str(tiny_path), "--prompt", "the answer"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"\S[^\n]*\n\Z", out)
    assert err.splitlines()[-1] == "unify: cpu: gone."


def test_biases_and_penalties_change_the_text(python: Run, directory: Path) -> None:
    argv = ["--model", str(directory), "--prompt-ids", "5,90,17", "--max-tokens", "8", "--greedy", "--json"]
    for options, expected in (
        (["--logit-bias", "33:-inf", "--logit-bias", "7:100"], [7] * 8),
        (["--logit-bias", "7:1000", "--logit-bias", "8:500", "--presence-penalty", "800"], [7, 8]),
    ):
        told = json.loads(python("-m", "unify", "generate", *argv, *options).stdout)
        assert told["token_ids"][: len(expected)] == expected
    finished = python("-m", "unify", "generate", *argv, "--logit-bias", "97:1")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "logit_bias has token 97, outside the vocabulary of 97" in finished.stderr


def test_min_p_leaves_the_likeliest_only(python: Run, tiny_path: Path) -> None:
    argv = ["--model", str(tiny_path), "--prompt", "the answer", "--max-tokens", "12", "--json"]
    drawn = ["--temperature", "3", "--top-k", "0", "--top-p", "1"]
    texts = [
        json.loads(python("-m", "unify", "generate", *argv, *options).stdout)["text"]
        for options in (["--greedy"], [*drawn, "--min-p", "1"], drawn)
    ]
    assert texts[0] == texts[1] != texts[2]
