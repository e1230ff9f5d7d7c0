"""`unify chat` in a terminal: what a person types and sees, on the tiny model."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_an_answer_that_a_limit_cut_says_which(tiny_path: Path) -> None:
    chat = Terminal("chat", "--model", str(tiny_path), "--max-tokens", "60", "--max-context", "128")
    try:
        chat.expect("\n> ")
        assert "60 written" in (shown := chat.ask("hi"))
        assert "(stopped by --max-tokens)" in shown
        chat.type("/reset\n")
        chat.expect("\n> ")
        shown = chat.ask("x" * 60)  # leaves room for less than was asked for
        assert "60 written" not in shown
        assert "(stopped by the end of the context, --max-context)" in shown
    finally:
        chat.close()


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
