"""Chat templates: programs that came with a model's file, run where they can do no harm."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from unify._config import environment
from unify._errors import ModelFileError

_SECONDS = 2  # of processor time, the start of the interpreter included
_PATIENCE_S = 60.0  # for a machine that has no time for it
_BYTES = 256 << 20
_LETTERS = 1 << 16  # beyond what the messages may become
_REPEATS = 4  # of a message's text


def render(template: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    """The text of a conversation, ready for the assistant's answer. variables: tokens by name and the like.

    Runs in a sandbox in a process of its own, which ends when it takes more than 2 s of processor time, 256 MB, or
    writes far more than it was given. Raises ModelFileError for a template that does so, or does not work.
    """
    given = json.dumps(messages)
    task = {
        "path": [_folder("jinja2"), _folder("markupsafe")],
        "template": template,
        "variables": {"messages": messages, "add_generation_prompt": True, **variables},
        "seconds": _SECONDS,
        "bytes": _BYTES,
        "letters": _LETTERS + _REPEATS * len(given),
    }
    try:
        finished = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("sandbox.py"))],
            input=json.dumps(task),
            capture_output=True,
            encoding="ascii",
            env={name: value for name, value in environment().items() if name != "LD_PRELOAD"},
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _does_not_work(f"it takes more than {_PATIENCE_S:.0f} s") from None
    if finished.returncode:
        raise _does_not_work(_end(finished.returncode, finished.stderr))
    answer: dict[str, str] = json.loads(finished.stdout)
    if "error" in answer:
        raise _does_not_work(answer["error"])
    return answer["text"]


def _folder(package: str) -> str:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}; chat templates need it", name=package)
    return str(Path(found.origin).parents[1])


def _end(status: int, told: str) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it takes more than {_SECONDS} s of processor time"
    return f"its process ended with status {status}: {told[-200:]}"


def _does_not_work(why: str) -> ModelFileError:
    told = "".join(c if c.isprintable() else " " for c in why)
    return ModelFileError(
        f"the chat template of this model's file does not work: {told:.300}. Use `unify generate`, a plain prompt."
    )
