"""The program that renders a chat template: what a template cannot reach."""

from __future__ import annotations

import pytest

from unify._errors import ModelFileError
from unify.models.template import render

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_but_what_it_is_given(template: str) -> None:
    with pytest.raises(ModelFileError, match="does not work"):
        render(template, MESSAGES)


@pytest.mark.parametrize("template", ["{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(1) }}"])
def test_what_a_template_must_not_see_is_empty(template: str) -> None:
    assert render(template, MESSAGES) == ""


def test_what_a_template_does_does_not_last() -> None:
    assert render("{% set messages = 7 %}{{ messages }}", MESSAGES) == "7"
    assert MESSAGES == [{"role": "user", "content": "x"}]
