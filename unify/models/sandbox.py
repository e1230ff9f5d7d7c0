"""Renders one chat template: a program of its own, so that its time and memory have limits that nothing gets around.

`template.py` starts it by its path, without site packages, and writes one JSON object to its standard input: path
(folders of jinja2 and what it needs), template, variables, and the limits seconds, bytes and letters. It answers with
{"text": …} or {"error": …}.
"""

import json
import resource
import sys
from typing import Any


def main() -> None:
    """Reads the task, renders, answers."""
    task = json.load(sys.stdin)
    sys.path += task["path"]
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (task["seconds"], task["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (task["bytes"], task["bytes"]))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    try:
        answer = {"text": _text(environment, task)}
    except MemoryError:
        answer = {"error": f"it takes more than {task['bytes'] >> 20} MB of memory"}
    except Exception as error:  # whatever a template can do wrong
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)


def _text(environment: Any, task: dict[str, Any]) -> str:
    pieces, left = [], task["letters"]
    for piece in environment.from_string(task["template"]).generate(**task["variables"]):
        left -= len(piece)
        if left < 0:
            raise ValueError(f"it writes more than {task['letters']} letters")
        pieces.append(piece)
    return "".join(pieces)


if __name__ == "__main__":
    main()
