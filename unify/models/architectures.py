"""Which file computes which model of a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unify._errors import ModelFileError

from . import deepseek_v3, llama, mixtral, qwen3, qwen3_moe
from .checkpoint import Checkpoint
from .decoder import Decoder
from .loader import Loader

_LOADERS: dict[str, Callable[[Loader], Decoder]] = {
    "deepseek_v3": deepseek_v3.load,
    "llama": llama.load,
    "mistral": llama.load,
    "mixtral": mixtral.load,
    "qwen3": qwen3.load,
    "qwen3_moe": qwen3_moe.load,
}


def load_directory(
    checkpoint: Checkpoint, *, device: Any = None, dtype: str = "auto", weights: str | None = None,
    activations: str | None = None,
) -> Decoder:  # fmt: skip
    """Loads the model of a directory of safetensors, one tensor at a time.

    dtype: "auto" computes in the dtype that the weights have, "float32" converts them. weights: "int8", "int4" or "fp8"
    quantises each matrix when it is read. activations: "int8" with weights of int8 or int4, "fp8" with those of fp8:
    what is multiplied with such a matrix is quantised for each token too. None leaves it as it is.
    Raises InvalidArgument for options that do not go together, ModelFileError for files that do not hold together, for
    an architecture that is not known, and for what would change the result and is not computed.
    """
    kind = checkpoint.require("model_type", str)
    load = _LOADERS.get(kind)
    if load is None:
        raise ModelFileError(
            f"{checkpoint.path / 'config.json'}: 'model_type' is {kind!r:.80}, which cannot be run. Known: "
            f"{', '.join(_LOADERS)}."
        )
    return load(Loader(checkpoint, device=device, dtype=dtype, weights=weights, activations=activations))
