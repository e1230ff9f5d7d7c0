"""Language models over unify.ops: files, tokenizers, caches, and the loop that writes text."""

from .fetch import model_path
from .generate import Answer, Generator, Sampling
from .gguf_llama import Llama
from .tokenizer import Tokenizer
from .weights import ModelFile

__all__ = ["Answer", "Generator", "Llama", "ModelFile", "Sampling", "Tokenizer", "load", "model_path"]


def load(name_or_path: str, *, device: str | None = None, dtype: str = "quantized") -> tuple[Llama, Tokenizer]:
    """Loads a model and its tokenizer from a GGUF file, or by a known name (which fetches it once).

    dtype: "quantized" keeps matrices of q4_0, q4_1 and q8_0 as the file has them and warns (RuntimeWarning) of others,
    which become float32; "float32" dequantises all. Raises ModelFileError.
    """
    file = ModelFile(model_path(name_or_path))
    return Llama.load(file, device=device, dtype=dtype), Tokenizer.from_file(file)
