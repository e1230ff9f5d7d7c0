"""Language models over unify.ops: files, tokenizers, caches, and the loop that writes text."""

from collections.abc import Callable
from typing import Any

from unify._errors import InvalidArgument

from .architectures import load_directory
from .batch import Batch, Request
from .checkpoint import Checkpoint
from .decoder import Decoder
from .directory_tokenizer import directory_tokenizer
from .fetch import model_path
from .generate import Answer, Generator
from .gguf_llama import Llama
from .sampling import Sampling
from .speculative import SpeculativeGenerator
from .tokenizer import Tokenizer
from .weights import ModelFile

__all__ = [
    "Answer",
    "Batch",
    "Checkpoint",
    "Decoder",
    "Generator",
    "Llama",
    "ModelFile",
    "Request",
    "Sampling",
    "SpeculativeGenerator",
    "Tokenizer",
    "load",
    "model_path",
]


def load(
    name_or_path: str,
    *,
    device: Any = None,
    dtype: str = "quantized",
    weights: str | None = None,
    activations: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Decoder, Tokenizer]:
    """Loads a model and its tokenizer from a GGUF file, a directory of safetensors as Hugging Face has them, or by a
    known name (which fetches it once).

    dtype: "quantized" keeps weights as they are: a file's matrices of q4_0, q4_1 and q8_0 (others become float32, with
    a RuntimeWarning), a directory's in bfloat16, float16, float32 or fp8; "float32" makes all of them float32.
    weights: "int8", "int4" or "fp8" quantises a directory's matrices as they are read. activations: "int8" with weights
    of int8 or int4, "fp8" with those of fp8, quantises what is multiplied with them for each token too: faster products
    where a chip has them, and less exact ones. None leaves them as they are, whatever config.json says of an
    `activation_scheme`. progress: called with what is being done, the bytes so far and in all. A directory without
    tokenizer.json gets a tokenizer that writes numbers.
    Raises ModelFileError, and InvalidArgument for a name that is not known, and options that are none or do not fit.
    """
    if dtype not in ("quantized", "float32"):
        raise InvalidArgument(f"load: dtype must be 'quantized' or 'float32', not {dtype!r}.")
    path = model_path(name_or_path, progress)
    if path.is_dir():
        checkpoint = Checkpoint(path, progress)
        asked = "auto" if dtype == "quantized" else dtype
        model = load_directory(checkpoint, device=device, dtype=asked, weights=weights, activations=activations)
        return model, directory_tokenizer(checkpoint)
    if activations is not None:
        raise InvalidArgument(
            f"{path}: {activations=} quantises what a directory of safetensors multiplies with its quantised matrices; "
            "a GGUF file's activations always become codes of 16 bits. Leave it out."
        )
    if weights is not None:
        raise InvalidArgument(
            f"{path}: {weights=} quantises the matrices of a directory of safetensors; a GGUF file has them as it was "
            "made. Leave it out."
        )
    file = ModelFile(path)
    show = None if progress is None else lambda done, size: progress("load", done, size)
    return Llama.load(file, device=device, dtype=dtype, progress=show), Tokenizer.from_file(file)
