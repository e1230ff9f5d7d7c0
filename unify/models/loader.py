"""From tensors in a checkpoint to matrices on a device, one at a time, checked, and quantised if that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import unify
from unify._errors import InvalidArgument, ModelFileError

from .checkpoint import Checkpoint, ShardTensor

if TYPE_CHECKING:
    import numpy as np

_DTYPES = {"f32": unify.float32, "bf16": unify.bfloat16, "f16": unify.float16}
WEIGHTS = ("int8", "int4", "fp8")  # what dense matrices can be quantised to


class Loader:
    """Reads what a model asks for, in the dtype that its embedding has, or float32.

    dtype: "auto" or "float32". weights: one of WEIGHTS, or None for weights as the checkpoint has them. Raises
    InvalidArgument for others, and ModelFileError for a checkpoint without an embedding, or of a dtype that is none of
    float32, bfloat16 and float16.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: Any = None, dtype: str = "auto", weights: str | None = None
    ) -> None:
        if dtype not in ("auto", "float32"):
            raise InvalidArgument(f"dtype must be 'auto' or 'float32', not {dtype!r}.")
        if weights is not None and weights not in WEIGHTS:
            raise InvalidArgument(f"weights must be one of {', '.join(WEIGHTS)}, or None; not {weights!r}.")
        self.checkpoint = checkpoint
        self.device = unify.default_device() if device is None else unify.device(device)
        kind = checkpoint.info("model.embed_tokens.weight").kind
        if kind not in _DTYPES:
            raise self._unusable("model.embed_tokens.weight", kind)
        self.dtype = unify.float32 if dtype == "float32" else _DTYPES[kind]
        self._weights = weights
        self._used: set[str] = set()

    def constant(self, values: np.ndarray[Any, Any]) -> Any:
        """An array of the config's on the device."""
        return unify.asarray(values, device=self.device, copy=True)

    def vector(self, name: str, length: int) -> Any:
        """A tensor [length] in float32: they are small, and what is multiplied with them gains a rounding less."""
        return self.constant(self._float32(self._take(name, (length,))))

    def float32(self, name: str, shape: tuple[int, ...]) -> Any:
        """A tensor in float32, whatever else is asked for."""
        return self.constant(self._float32(self._take(name, shape)))

    def matrix(self, names: Sequence[str], shapes: Sequence[tuple[int, int]]) -> list[Any]:
        """Matrices of one k on top of each other, as `projection.project` takes them."""
        infos = [self._take(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return [self._quantized(self._stack(infos, (sum(shape[0] for shape in shapes), shapes[0][1])))]

    def experts(self, names: Sequence[Sequence[str]], shape: tuple[int, int]) -> Any:
        """[experts, n, k] of matrices of one shape: names[e] are those of one expert, on top of each other."""
        infos = [self._take(name, shape) for expert in names for name in expert]
        return self._quantized(self._stack(infos, (len(names), len(names[0]) * shape[0], shape[1])))

    def skip(self, prefix: str) -> None:
        """Leaves out tensors that are not needed for what is computed."""
        self._used |= {name for name in self.checkpoint.tensors if name.startswith(prefix)}

    def finish(self) -> None:
        """Raises ModelFileError when a tensor is left that nothing asked for: the result would miss it."""
        left = sorted(self.checkpoint.tensors.keys() - self._used)
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise ModelFileError(
                f"{self.checkpoint.path}: the tensor '{left[0]:.120}'{more} has no place in this model as it is "
                "computed here: the text would be wrong without it. Take another model."
            )

    def _take(self, name: str, shape: tuple[int, ...]) -> ShardTensor:
        info = self.checkpoint.info(name, shape)
        self._used.add(name)
        return info

    def _unusable(self, name: str, kind: str) -> ModelFileError:
        return ModelFileError(
            f"{self.checkpoint.path}: the tensor '{name:.120}' is of dtype {kind}, which cannot be used there. Take a "
            "model in bfloat16, float16 or float32."
        )

    def _stack(self, infos: Sequence[ShardTensor], shape: tuple[int, ...]) -> Any:
        """One tensor of several, after each other in memory. Nothing is held twice but one of them."""
        result = unify.empty(shape, dtype=self.dtype, device=self.device)
        rows = result.reshape(math.prod(shape[:-1]), shape[-1])
        first = 0
        for info in infos:
            part = rows[first : first + info.shape[0]]
            first += info.shape[0]
            if _DTYPES.get(info.kind) == self.dtype and self.device.kind == "cpu":
                bits = unify.uint16 if self.dtype.itemsize == 2 else unify.uint32
                self.checkpoint.read_into(info.name, part.view(bits).numpy())
            elif _DTYPES.get(info.kind) == self.dtype:
                part.copy_(self._as_stored(info))
            else:
                part.copy_(unify.from_numpy(self._float32(info)).to(self.dtype))
        return result

    def _as_stored(self, info: ShardTensor) -> Any:
        return unify.from_numpy(self.checkpoint.read(info.name), _DTYPES[info.kind])

    def _float32(self, info: ShardTensor) -> np.ndarray[Any, Any]:
        import numpy as np

        if info.kind not in _DTYPES:
            raise self._unusable(info.name, info.kind)
        values = self.checkpoint.read(info.name)
        if info.kind == "bf16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32, copy=False)

    def _quantized(self, matrix: Any) -> Any:
        if self._weights is None:
            return matrix
        from unify.ops.quant import quantize_weight

        return quantize_weight(matrix, self._weights)
