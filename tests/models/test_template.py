"""Chat templates: what they are given, and what a hostile one may take."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from unify._errors import ModelFileError
from unify.models.template import render

MESSAGES = [{"role": "user", "content": "Grüß dich, 漢字 🎉"}]


def test_a_template_sees_messages_tokens_and_that_an_answer_is_wanted() -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}"
    template += "{{ add_generation_prompt }}"
    assert render(template, MESSAGES, bos_token="<s>") == "<s>user: Grüß dich, 漢字 🎉\nTrue"


def test_blocks_take_their_lines_with_them_and_loops_can_be_left() -> None:
    template = "{% for i in range(9) %}\n  {% if i == 2 %}\n    {% break %}\n  {% endif %}\n{{ i }}\n{% endfor %}\n"
    assert render(template, MESSAGES) == "0\n1\n"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ ", "unexpected 'end of template'"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages[7]['content'] + 1 }}", "has no element 7"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{{ raise_exception('\\x1b]0;title\\x07' * 9999) }}", r"]0;title"),
    ],
)
def test_a_template_that_does_not_work_is_an_error_that_says_why(template: str, told: str) -> None:
    with pytest.raises(ModelFileError) as refused:
        render(template, MESSAGES)
    assert told in str(refused.value)
    assert str(refused.value).isprintable()  # it may be shown in a terminal
    assert len(str(refused.value)) < 500
    assert "unify generate" in str(refused.value)


TIME, MEMORY, LENGTH = "more than 2 s of processor time", "more than 256 MB of memory", "writes more than"
GREEDY = {
    "loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", TIME),
    "power": ("{{ 9 ** (9 ** 9) }}", TIME),
    "repeats": ("{{ 'x' * 3000000 }}", LENGTH),
    "writes": ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", LENGTH),
    "text": ("{{ 'x' * 10 ** 10 }}", MEMORY),
    "doubles": ("{% set n = namespace(x='x') %}{% for _ in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}", MEMORY),
    "pads": ("{{ 'x'.ljust(10 ** 10) }}", MEMORY),
    "formats": ("{{ '%0999999999d' | format(1) | length }}", MEMORY),
    "deep": ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "recursion"),
}  # fmt: skip


@pytest.mark.parametrize("name", GREEDY)
def test_a_template_that_takes_more_than_any_needs_is_stopped(name: str) -> None:
    template, told = GREEDY[name]
    with pytest.raises(ModelFileError, match=f"the chat template of this model's file does not work: .*{told}"):
        render(template, MESSAGES)


def test_long_messages_are_not_what_is_limited() -> None:
    content = "word " * 100_000
    text = render("{{ messages[0]['content'] }}{{ messages[0]['content'] }}", [{"role": "user", "content": content}])
    assert text == content * 2


def test_a_machine_that_starts_no_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired(sys.executable, options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(ModelFileError, match="takes more than 60 s"):
        render("x", MESSAGES)
