"""The errors of unify: `except unify.errors.OutOfMemory`. They stand in `unify` too: `except unify.OutOfMemory`."""

from ._errors import *  # noqa: F403
from ._errors import __all__ as __all__
