"""A conversation in the terminal."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unify._errors import Error, InvalidArgument
from unify._notice import Notice
from unify._process import peak_memory_bytes

from .generate import Answer, Generator

if TYPE_CHECKING:
    from rich.console import Console

_HELP = """\
/reset   forget the conversation
/help    this text
/quit    leave, like Ctrl-D or Ctrl-C at an empty prompt
Ctrl-C stops an answer; the conversation stays. Arrow keys bring back what you wrote."""


class Chat:
    """Turns of one conversation. What does not fit into the context any more is forgotten, oldest first."""

    def __init__(self, generator: Generator, console: Console, *, max_tokens: int) -> None:
        self._generator, self._console, self._max_tokens = generator, console, max_tokens
        self._messages: list[dict[str, str]] = []
        self._shown_kernels: list[str] = []

    def run(self) -> None:
        """Asks and answers until the user leaves."""
        with contextlib.suppress(ImportError):  # Python may be built without it
            import readline  # noqa: F401 - input() uses it when it is there
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._say("")
                if not _unfinished_line():
                    return
                continue
            if line == "/quit":
                return
            if line == "/help":
                self._say(_HELP)
            elif line == "/reset":
                self._messages.clear()
                self._say("The conversation begins anew.")
            elif line.startswith("/"):
                self._say(f"No command {line.split()[0]}. Known: /help, /reset, /quit.")
            elif line:
                self._turn(line)

    def ask(self, question: str) -> None:
        """One turn: writes the answer, then how fast it was. Ctrl-C ends the answer and keeps what was written."""
        self._messages.append({"role": "user", "content": question})
        written: list[str] = []

        def write(text: str) -> None:
            written.append(text)
            sys.stdout.write(printable(text))
            sys.stdout.flush()

        try:
            ids = self._fitting()
            most = min(self._max_tokens, max(1, self._generator.cache.capacity - len(ids)))
            with first_text(write) as write_first:
                answer = self._generator.generate(ids, most, write_first)
            limit = "--max-tokens" if most == self._max_tokens else "the end of the context, --max-context"
            cut = f" (stopped by {limit})" if len(answer.token_ids) == most else ""
            self._say(f"\n{statistics(answer, self._generator)}{cut}{self._new_kernels()}")
        except KeyboardInterrupt:
            self._say(" … stopped")
        except Error:
            self._messages.pop()
            if written:
                self._say("")  # what is said of it does not stand in the text
            raise
        self._messages.append({"role": "assistant", "content": "".join(written)})

    def _turn(self, question: str) -> None:
        try:
            self.ask(question)
        except Error as error:  # this question's; the conversation goes on
            self._say(str(error))

    def _fitting(self) -> list[int]:
        """Tokens of the conversation, with room for an answer; forgets the oldest turns for it."""
        capacity = self._generator.cache.capacity
        wanted = min(self._max_tokens, capacity // 4)
        forgotten = 0
        ids = self._generator.tokenizer.chat(self._messages)
        while len(ids) + wanted > capacity and len(self._messages) > 1:
            del self._messages[:2]  # a question and its answer
            forgotten += 1
            ids = self._generator.tokenizer.chat(self._messages)
        if forgotten:
            turns = "turn was" if forgotten == 1 else f"{forgotten} turns were"
            self._say(f"The oldest {turns} forgotten: the context holds {capacity} tokens (--max-context).")
        if len(ids) >= capacity:
            raise InvalidArgument(f"{len(ids)} tokens do not fit into a context of {capacity} (--max-context).")
        return ids

    def _new_kernels(self) -> str:
        ran = kernels()
        if ran == self._shown_kernels:
            return ""
        self._shown_kernels = ran
        return f"\nkernels: {', '.join(ran)}"

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)


FIRST_START = "unify: a first start compiles the model's kernels, which are kept"


@contextlib.contextmanager
def first_text(
    write: Callable[[str], None], *, is_shown: bool = False, after_s: float = 10.0
) -> Iterator[Callable[[str], None]]:
    """What to write an answer with: where its first piece takes long, standard error says why.

    is_shown: something on the screen says so already.
    """
    with Notice(FIRST_START, after_s) as notice:
        if is_shown:
            notice.cancel()

        def write_first(text: str) -> None:
            notice.cancel()
            write(text)

        yield write_first


def statistics(answer: Answer, generator: Generator) -> str:
    """How much was read and written, how fast, and where: of a simulated device the rates are this machine's."""
    device = generator.model.device
    where = f"{device} (simulated)" if device.properties["simulated"] else str(device)
    return (
        f"{answer.prompt_tokens - answer.reused_tokens} prompt tokens at {answer.prefill_tokens_per_s:.0f} tokens/s, "
        f"{len(answer.token_ids)} written at {answer.decode_tokens_per_s:.0f} tokens/s, {where}, "
        f"{peak_memory_bytes() / 1e6:.0f} MB at most"
    )


def kernels() -> list[str]:
    """Names of the kernels that this process has run."""
    from unify._kernel import Kernel

    ran = [kernel for kernel in gc.get_objects() if type(kernel) is Kernel and kernel.binaries]
    return sorted({kernel.fn.__name__.removesuffix("_kernel") for kernel in ran})


# A model may write anything: nothing of it shall steer the terminal.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


def printable(text: str) -> str:
    """The text without control characters other than newline and tab."""
    return text.translate(_CONTROLS)


def _unfinished_line() -> str:
    """What the user had typed when Ctrl-C came."""
    readline = sys.modules.get("readline")
    return readline.get_line_buffer() if readline else ""
