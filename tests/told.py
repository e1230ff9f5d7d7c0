"""For programs of tests: the error that a call ends with, as a value. The fixture `program` lays it beside them."""

from __future__ import annotations

from collections.abc import Callable

import unify as un


def told(call: Callable[[], object]) -> un.Error | str:
    """Returns the error of unify's that the call raises, or says that there was none."""
    try:
        call()
    except un.Error as error:
        return error
    return "nothing was raised"


def told_at_last(call: Callable[[], object]) -> un.Error:
    """Repeats the call until it raises: what goes wrong in work that was only enqueued shows at a later call."""
    while isinstance(error := told(call), str):
        pass
    return error
