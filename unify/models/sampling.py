"""How a request wants its tokens chosen."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from unify._errors import InvalidArgument

_LARGEST, _SMALLEST = 3e38, 2e-38  # of float32, which kernels take
_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda x: 0.0 <= x <= _LARGEST, "from 0 to 3e38"),
    "top_p": (lambda x: 0.0 < x <= 1.0, "above 0 and at most 1"),
    "min_p": (lambda x: 0.0 <= x <= 1.0, "from 0 to 1"),
    "repetition_penalty": (lambda x: _SMALLEST <= x <= _LARGEST, "from 2e-38 to 3e38; 1 is none"),
    "frequency_penalty": (lambda x: -_LARGEST <= x <= _LARGEST, "from -3e38 to 3e38; 0 is none"),
    "presence_penalty": (lambda x: -_LARGEST <= x <= _LARGEST, "from -3e38 to 3e38; 0 is none"),
}
_WHOLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "top_k": (lambda x: 0 <= x < 1 << 31, "a whole number from 0, which takes all"),
    "seed": (lambda x: -(1 << 63) <= x < 1 << 63, "a whole number of 64 bits"),
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: temperature 0 takes the likeliest; see `ops.sample`.

    Three things change the logits before that, in this order. logit_bias adds to those of single tokens, by number;
    -inf for one that must not come. repetition_penalty above 1 makes tokens of the prompt and of what was written less
    likely (Keskar et al. 2019). frequency_penalty makes tokens less likely by how often they were written,
    presence_penalty by whether they were (OpenAI's). See `ops.logit_bias` and `ops.penalize`.
    Raises InvalidArgument for a setting out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, ranges in ((numbers.Real, _NUMBERS), (numbers.Integral, _WHOLE)):
            for name, (is_in_range, needed) in ranges.items():
                value = getattr(self, name)
                if not (isinstance(value, kind) and is_in_range(value)):
                    raise InvalidArgument(f"Sampling: {name} must be {needed}; it is {value!r:.80}.")
        if not isinstance(self.logit_bias, Mapping):
            raise InvalidArgument(f"Sampling: logit_bias must map tokens to numbers; it is {self.logit_bias!r:.80}.")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, numbers.Integral) or token < 0:
                raise InvalidArgument(f"Sampling: logit_bias must be of tokens' numbers; one is {token!r:.80}.")
            if not isinstance(bias, numbers.Real) or not (bias == -math.inf or -_LARGEST <= bias <= _LARGEST):
                raise InvalidArgument(
                    f"Sampling: logit_bias must be a number, or -inf for a token that must not come; of token {token} "
                    f"it is {bias!r:.80}."
                )
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))  # what was checked

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on what was written before."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0

    def check(self, vocabulary: int) -> None:
        """Raises InvalidArgument for the bias of a token that there is not."""
        wrong = next((token for token in self.logit_bias if token >= vocabulary), None)
        if wrong is not None:
            raise InvalidArgument(f"Sampling: logit_bias has token {wrong}, outside the vocabulary of {vocabulary}.")
