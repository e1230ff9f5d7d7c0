"""`unify chat` in a terminal and in a pipe, and what `unify generate` writes, on the tiny model."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unify import models

from ..conftest import Run
from .conftest import write_model

# A session leader's first terminal becomes the one that Ctrl-C comes from (tty(4)).
_IN_TERMINAL = (
    "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
    "os.execv(sys.executable, [sys.executable, '-m', 'unify', *sys.argv[1:]])"
)
_TIMEOUT_S = 120.0


class Terminal:
    """A command in a terminal: what a person types and sees."""

    def __init__(self, *argv: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null"},
        )
        os.close(slave)
        self.unread = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def expect(self, text: str) -> str:
        """Waits for a text on the screen; returns what was written up to its end."""
        deadline = time.monotonic() + _TIMEOUT_S
        while text not in self.unread:
            assert select.select([self.master], [], [], deadline - time.monotonic())[0], (text, self.unread[-2000:])
            try:
                data = os.read(self.master, 1 << 16)
            except OSError as error:  # EIO: the program has ended
                raise AssertionError(f"ended without {text!r}: {self.unread[-2000:]!r}") from error
            self.unread += self.decoder.decode(data).replace("\r\n", "\n")
        seen, self.unread = self.unread.split(text, 1)
        return seen + text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C at a prompt, once the program waits for a key: Python's readline loses one that comes just before."""
        status = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "S":  # sleeping, proc(5)
            os.sched_yield()
        self.type("\x03")

    def ask(self, question: str) -> str:
        """Asks, waits for the answer and its statistics, and for the next prompt."""
        self.type(question + "\n")
        return self.expect("MB at most") + self.expect("\n> ")

    def end(self) -> int:
        """Waits for the program's end, reading what it still writes. Returns its status."""
        with open(self.master, "rb", buffering=0, closefd=False) as screen:
            try:
                while screen.read(1 << 16):
                    pass
            except OSError:
                pass  # EIO at the end
        return self.process.wait(timeout=_TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(tiny_path: Path) -> Iterator[Terminal]:
    """A chat that waits for its first question."""
    chat = Terminal("chat", "--model", str(tiny_path), "--max-tokens", "20", "--max-context", "512")
    chat.expect("/help")
    chat.expect("\n> ")
    yield chat
    chat.close()


def test_each_answer_is_followed_by_how_fast_it_was(terminal: Terminal) -> None:
    first, second = terminal.ask("hello"), terminal.ask("again")
    for shown in (first, second):
        assert re.search(r"\d+ prompt tokens at \d+ tokens/s, 20 written at \d+ tokens/s, cpu, \d+ MB at most", shown)
    assert "kernels: " in first
    assert "rms_norm" in first
    assert "kernels: " not in second  # the same


def test_commands_are_explained_and_unknown_ones_refused(terminal: Terminal) -> None:
    terminal.type("/help\n")
    shown = terminal.expect("\n> ")
    assert all(word in shown for word in ("/reset", "/help", "/quit", "Ctrl-C"))
    terminal.type("/rest now\n")
    assert "No command /rest. Known: /help, /reset, /quit." in terminal.expect("\n> ")
    terminal.type("\n")
    terminal.expect("\n> ")
    terminal.type("/quit\n")
    assert terminal.end() == 0


def test_reset_makes_the_next_answer_a_first_one(terminal: Terminal) -> None:
    def prompt_tokens(shown: str) -> int:
        found = re.search(r"(\d+) prompt tokens", shown)
        assert found
        return int(found[1])

    first = prompt_tokens(terminal.ask("hello there"))
    assert prompt_tokens(terminal.ask("hello there")) > first
    terminal.type("/reset\n")
    terminal.expect("begins anew")
    terminal.expect("\n> ")
    # The same question; its beginning is still in the cache.
    assert prompt_tokens(terminal.ask("hello there")) <= first


def test_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_at_an_empty_prompt_leaves(terminal: Terminal) -> None:
    terminal.interrupt()
    assert terminal.end() == 0


def test_ctrl_c_takes_back_a_line_that_was_begun(terminal: Terminal) -> None:
    terminal.type("a secret that")
    terminal.expect("a secret that")
    terminal.interrupt()
    terminal.expect("\n> ")
    assert "20 written" in terminal.ask("hello")


def test_arrow_up_brings_back_what_was_typed(terminal: Terminal) -> None:
    pytest.importorskip("readline", reason="this Python was built without it")
    terminal.type("/help\n")
    terminal.expect("/reset")
    terminal.expect("\n> ")
    terminal.type("\x1b[A\n")
    terminal.expect("/reset")


def test_what_does_not_fit_is_forgotten_oldest_first_and_said(terminal: Terminal) -> None:
    question = "x" * 100
    shown = [terminal.ask(question) for _ in range(5)]
    assert ["forgotten" in text for text in shown] == [False, False, False, True, True]
    assert "The oldest turn was forgotten: the context holds 512 tokens (--max-context)." in shown[3]


def test_a_question_longer_than_the_context_is_refused_and_the_chat_goes_on(terminal: Terminal) -> None:
    terminal.ask("hello")
    terminal.type("/" + "\x08" + "x" * 600 + "\n")
    terminal.expect("do not fit into a context of 512")
    terminal.expect("\n> ")
    assert "20 written" in terminal.ask("hello")


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(tmp_path: Path) -> None:
    path = write_model(tmp_path / "endless.gguf", changes={"llama.context_length": 400_000})
    chat = Terminal("chat", "--model", str(path), "--max-tokens", "300000", "--max-context", "400000")
    try:
        chat.expect("\n> ")
        chat.type("tell me all\n")
        chat.expect("tell me all\n")
        while len(chat.unread) < 1000:
            chat.unread += chat.decoder.decode(os.read(chat.master, 1 << 16))
        chat.type("\x03")
        chat.expect("… stopped")
        chat.expect("\n> ")
        chat.type("and then\n")
        chat.expect("and then\n")
        while len(chat.unread) < 1000:
            chat.unread += chat.decoder.decode(os.read(chat.master, 1 << 16))
        chat.type("\x03")
        chat.expect("… stopped")
        chat.expect("\n> ")
        chat.type("/quit\n")
        assert chat.end() == 0
    finally:
        chat.close()


def test_a_model_cannot_steer_the_terminal(terminal: Terminal) -> None:
    shown = "".join(terminal.ask(f"question {i}") for i in range(5))
    assert "\N{REPLACEMENT CHARACTER}" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown.replace("\r", "").replace("\x1b[?2004", ""))


@pytest.mark.parametrize(
    ("given", "asked"), [("What is 2+2?\n", "What is 2+2?"), ("", "What is the capital"), ("é 漢", "é 漢")]
)
def test_without_a_terminal_one_question_is_asked(python: Run, tiny_path: Path, given: str, asked: str) -> None:
    finished = python("-m", "unify", "chat", "--model", str(tiny_path), "--max-tokens", "9", input=given)
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"> {asked}")
    assert "9 written at" in finished.stdout
    assert finished.stderr == ""


def test_a_prompt_on_the_command_line_needs_no_input(python: Run, tiny_path: Path) -> None:
    finished = python("-m", "unify", "chat", "--model", str(tiny_path), "--max-tokens", "9", "--prompt", "Hm?")
    assert finished.stdout.startswith("> Hm?\n")


def test_json_is_one_object_and_nothing_else(python: Run, tiny_path: Path) -> None:
    argv = ["--model", str(tiny_path), "--prompt", "the answer", "--max-tokens", "12", "--greedy", "--json"]
    finished = python("-m", "unify", "generate", *argv)
    assert finished.stderr == ""
    assert finished.stdout.count("\n") == 1
    told = json.loads(finished.stdout)
    assert list(told) == [
        "text", "token_ids", "prompt_tokens", "prefill_tokens_per_s", "decode_tokens_per_s", "device", "peak_memory_mb",
    ]  # fmt: skip
    model, tokenizer = models.load(str(tiny_path))
    ids = tokenizer.encode("the answer")
    expected = models.Generator(model, tokenizer, max_context=64).generate(ids, 12)
    assert (told["text"], told["token_ids"]) == (expected.text, expected.token_ids)
    assert (told["prompt_tokens"], told["device"]) == (len(ids), "cpu")
    assert min(told["prefill_tokens_per_s"], told["decode_tokens_per_s"], told["peak_memory_mb"]) > 0


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
        (["--prompt", "x", "--max-tokens", "600"], "do not fit into a context of 512"),
        (["--prompt", os.fsdecode(b"a\xff")], "no Unicode: a lone surrogate at character 1"),
    ],
)
def test_a_prompt_that_cannot_be_is_one_line_and_status_1(
    python: Run, tiny_path: Path, argv: list[str], told: str
) -> None:
    finished = python("-m", "unify", "generate", "--model", str(tiny_path), *argv)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("unify: ")
    assert told in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_an_interrupted_generate_ends_with_130(tmp_path: Path) -> None:
    path = write_model(tmp_path / "endless.gguf", changes={"llama.context_length": 400_000})
    argv = ["generate", "--model", str(path), "--prompt", "x", "--max-tokens", "300000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unify", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert len(process.stdout.read(200)) == 200
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=_TIMEOUT_S)
    assert (process.returncode, err) == (130, b"")
