"""By which angle a position turns each pair of features, as a Hugging Face config describes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

from unify._errors import ModelFileError
from unify.ops.rope import yarn_frequencies

if TYPE_CHECKING:
    import numpy as np

    from .checkpoint import Checkpoint

_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "attention_factor", "truncate",
    },
}  # fmt: skip


class Rotation:
    """The config's "rope_parameters" (or "rope_theta" and "rope_scaling", as it was called) for heads of one width.

    frequencies: float32 [width / 2], the angle of one position; magnitude: what rotated queries and keys are multiplied
    with each (yarn; Peng et al. 2023, section 3.4). Raises ModelFileError for a kind that is not computed.
    """

    def __init__(self, checkpoint: Checkpoint, width: int) -> None:
        self._file = checkpoint.path / "config.json"
        self._parameters = _parameters(checkpoint)
        self.magnitude = 1.0
        kind = self._parameters.pop("rope_type")
        base = self._parameters.pop("rope_theta")
        if kind not in _KEYS or not self._parameters.keys() <= _KEYS[kind]:
            raise ModelFileError(
                f"{self._file}: positions are of kind {kind!r:.40} with {sorted(self._parameters)!s:.200}, which is "
                f"not computed here: the text would be wrong. Known kinds: {', '.join(_KEYS)}. Take another model."
            )
        if not (_is_number(base) and 1.0 <= base < 1e30):
            raise self._wrong("rope_theta", base)
        angles = [float(base) ** (-2 * i / width) for i in range(width // 2)]
        if kind == "linear":
            angles = [angle / self._number("factor") for angle in angles]
        elif kind == "llama3":
            angles = [self._llama3(angle) for angle in angles]
        elif kind == "yarn":
            angles = self._yarn(float(base), width)
        self._angles = angles

    @property
    def frequencies(self) -> np.ndarray[Any, Any]:
        """The angle of one position for each pair, rounded once."""
        import numpy as np

        return np.asarray(self._angles, np.float32)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the config says beyond kind and base."""
        return self._parameters

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._parameters.get(key)
        value = default if value is None else value
        if not (_is_number(value) and 1e-6 < value < 1e12):
            raise self._wrong(key, value)
        return float(value)

    def _context(self) -> int:
        """The length of the texts that the model was trained on."""
        key = "original_max_position_embeddings"
        if not (number := self._number(key)).is_integer():
            raise self._wrong(key, number, "a whole number")
        return int(number)

    def _wrong(self, key: str, value: Any, needed: str = "a number") -> ModelFileError:
        return ModelFileError(f"{self._file}: '{key}' is {value!r:.80}; {needed} above 0 is needed. Fetch it again.")

    def _llama3(self, angle: float) -> float:
        """Long waves by the factor, short ones not, and a blend between (Llama 3.1; llama-models, model.py)."""
        turns = self._context() * angle / (2 * math.pi)
        low, high = self._number("low_freq_factor"), self._number("high_freq_factor")
        if high <= low:
            raise self._wrong("high_freq_factor", high)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        return angle * (kept + (1 - kept) / self._number("factor"))

    def _yarn(self, base: float, width: int) -> list[float]:
        """YaRN, with the magnitude that the config gives, or the paper's."""
        if base <= 1.0:
            raise self._wrong("rope_theta", base)
        truncate = self._parameters.get("truncate", True)
        if not isinstance(truncate, bool):
            raise ModelFileError(
                f"{self._file}: 'truncate' is {truncate!r:.80}; true or false is needed. Fetch it again."
            )
        both = {key: self._number(key) for key in ("mscale", "mscale_all_dim") if self._parameters.get(key, 0) != 0}
        angles, self.magnitude = yarn_frequencies(
            width, base, self._number("factor"), self._context(), beta_fast=self._number("beta_fast", 32.0),
            beta_slow=self._number("beta_slow", 1.0), truncate=truncate, device="cpu", **both,
        )  # fmt: skip
        if self._parameters.get("attention_factor") is not None:
            self.magnitude = self._number("attention_factor")
        return [float(angle) for angle in angles.tolist()]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)  # which is an int to Python


def _parameters(checkpoint: Checkpoint) -> dict[str, Any]:
    """The parameters under their newer names, with "rope_type" and "rope_theta" in any case."""
    given = checkpoint.require("rope_parameters", dict, {}) or checkpoint.require("rope_scaling", dict, {})
    found = {key: value for key, value in given.items() if value is not None}
    older = found.pop("type", "default")
    found.setdefault("rope_type", older)
    found.setdefault("rope_theta", checkpoint.require("rope_theta", float, 10000.0))
    if not isinstance(found["rope_type"], str):
        found["rope_type"] = repr(found["rope_type"])
    return found
