"""From tensors in a checkpoint to matrices on a device, one at a time, checked, and quantised if that is asked for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import unify
from unify._errors import InvalidArgument, ModelFileError
from unify.ops.quant import BLOCK, FP8_BLOCK, QuantizedMatrix, from_fp8_blocks, quantize_weight

from .checkpoint import Checkpoint, ShardTensor

if TYPE_CHECKING:
    import numpy as np

_SCALES = "_scale_inv"
_BITS = {1: unify.uint8, 2: unify.uint16, 4: unify.uint32}
_DTYPES = {"f32": unify.float32, "bf16": unify.bfloat16, "f16": unify.float16}
_STORED = {**_DTYPES, "f8_e4m3": unify.uint8}
_SLAB = 1 << 21  # weights that are on their way from a file to another dtype at once
WEIGHTS = ("int8", "int4", "fp8")  # what dense matrices can be quantised to
ACTIVATIONS = ("int8", "fp8")  # what can be multiplied with those in blocks, and with those in fp8


class Loader:
    """Reads what a model asks for, in the dtype that its embedding has, or float32.

    dtype: "auto" or "float32". weights: one of WEIGHTS, or None for weights as the checkpoint has them. activations:
    one of ACTIVATIONS for what is multiplied with quantised matrices, or None. Raises InvalidArgument for others and
    for activations that go with none of the weights, and ModelFileError for a checkpoint without an embedding, or of a
    dtype that is none of float32, bfloat16 and float16.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: Any = None, dtype: str = "auto", weights: str | None = None,
        activations: str | None = None,
    ) -> None:  # fmt: skip
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
        self._is_float32 = dtype == "float32"
        self._activations = activations
        self._check_activations()
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
        if self._keeps_fp8(infos) and any(shape[0] % FP8_BLOCK for shape in shapes[:-1]):  # scales across two of them
            return [self._told(self._stored_fp8([info], info.shape)) for info in infos]
        return [self._told(self._joined(infos, (sum(shape[0] for shape in shapes), shapes[0][1])))]

    def experts(self, names: Sequence[Sequence[str]], shape: tuple[int, int]) -> Any:
        """[experts, n, k] of matrices of one shape: names[e] are those of one expert, on top of each other."""
        infos = [self._take(name, shape) for expert in names for name in expert]
        together = len(names[0])
        joined = self._joined(infos, (len(names), together * shape[0], shape[1]), shape[0] if together > 1 else 0)
        return self._told(joined)

    def dense(self, name: str, shape: tuple[int, int]) -> Any:
        """A matrix in the activations' dtype, whatever else is asked for."""
        return self._stack([self._take(name, shape)], shape)

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

    def _check_activations(self) -> None:
        kind, weights = self._activations, self._weights
        if kind is None:
            return
        if kind not in ACTIVATIONS:
            raise InvalidArgument(f"activations must be one of {', '.join(ACTIVATIONS)}, or None; not {kind!r}.")
        if kind == "int8" and weights not in ("int8", "int4"):
            has = "they are not quantised: give weights as well" if weights is None else f"they are in {weights}"
            raise InvalidArgument(f"activations in int8 go with weights in int8 or int4; {has}.")
        stored = (info.kind for info in self.checkpoint.tensors.values())
        if kind == "fp8" and weights != "fp8" and (weights or self._is_float32 or "f8_e4m3" not in stored):
            has = f"they are in {weights}" if weights else "none are kept in it: give weights as well"
            raise InvalidArgument(f"activations in fp8 go with weights in fp8; {has}.")

    def _told(self, matrix: Any) -> Any:
        """The matrix, which knows what is to become of activations, if it is quantised."""
        return replace(matrix, activations=self._activations) if isinstance(matrix, QuantizedMatrix) else matrix

    def _take(self, name: str, shape: tuple[int, ...]) -> ShardTensor:
        info = self.checkpoint.info(name, shape)
        if 0 in shape:
            raise ModelFileError(
                f"{self.checkpoint.path}: the tensor '{name:.120}' is {list(shape)}: it has no weights."
            )
        self._used.add(name)
        if info.kind == "f8_e4m3" and len(shape) == 2:
            blocks = tuple(-(-size // FP8_BLOCK) for size in shape)
            scales = self.checkpoint.info(name + _SCALES, blocks)
            if scales.kind != "f32":
                raise self._unusable(scales.name, scales.kind)
            self._used.add(scales.name)
        return info

    def _joined(self, infos: Sequence[ShardTensor], shape: tuple[int, ...], rows: int = 0) -> Any:
        """Tensors after each other in one matrix, of what is asked for. rows: of each, where there are experts."""
        if self._keeps_fp8(infos) and rows % FP8_BLOCK == 0:
            return self._stored_fp8(infos, shape)
        return self._stack(infos, shape) if self._weights is None else self._quantized(infos, shape)

    def _keeps_fp8(self, infos: Sequence[ShardTensor]) -> bool:
        is_asked = self._weights == "fp8" or (self._weights is None and not self._is_float32)
        return is_asked and all(info.kind == "f8_e4m3" for info in infos)

    def _stored_fp8(self, infos: Sequence[ShardTensor], shape: tuple[int, ...]) -> Any:
        """A matrix of codes and scales as the checkpoint has them."""
        scales = [self.checkpoint.info(info.name + _SCALES) for info in infos]
        experts = shape[:-2]
        blocks = (*experts, -(-shape[-2] // FP8_BLOCK), -(-shape[-1] // FP8_BLOCK))
        codes = unify.empty(shape, dtype=unify.uint8, device=self.device)
        factors = unify.empty(blocks, dtype=unify.float32, device=self.device)
        self._read_rows(scales, factors)
        has_nan = self._read_rows(infos, codes)
        return from_fp8_blocks(codes, factors) if has_nan else QuantizedMatrix("fp8", shape, codes, factors)

    def _unusable(self, name: str, kind: str) -> ModelFileError:
        return ModelFileError(
            f"{self.checkpoint.path}: the tensor '{name:.120}' is of dtype {kind}, which cannot be used there. Take a "
            "model in bfloat16, float16 or float32."
        )

    def _stack(self, infos: Sequence[ShardTensor], shape: tuple[int, ...]) -> Any:
        """One tensor of several, after each other in memory. Nothing is held twice but one slab."""
        result = unify.empty(shape, dtype=self.dtype, device=self.device)
        self._read_rows(infos, result)
        return result

    def _quantized(self, infos: Sequence[ShardTensor], shape: tuple[int, ...]) -> Any:
        """Tensors after each other in one quantised matrix. Nothing is held dense but one slab."""
        assert self._weights is not None
        if self._weights != "fp8" and shape[-1] % BLOCK:
            raise InvalidArgument(
                f"{self.checkpoint.path}: the tensor '{infos[0].name:.120}' is {list(infos[0].shape)}; {self._weights} "
                f"needs rows of a multiple of {BLOCK} inputs. Take weights in fp8, or leave them as they are."
            )
        result = QuantizedMatrix.empty(self._weights, shape, device=self.device)
        rows, slabs = _Rows(self, infos), list(_slabs(shape[-2:]))
        memory = unify.empty((slabs[0][1], shape[-1]), dtype=self.dtype, device=self.device)
        for matrix in map(result.__getitem__, range(shape[0])) if len(shape) == 3 else [result]:
            for first, count in slabs:
                rows.read_into(memory[:count])  # after the one before is quantised: a stream keeps the order
                quantize_weight(memory[:count], self._weights, out=matrix.rows(first, count))
        return result

    def _read_rows(self, infos: Sequence[ShardTensor], result: Any) -> bool:
        """Reads matrices into a tensor, after each other: bytes where the dtype is the same, else values.

        Whether a code of fp8 is no number: few checkpoints have one, so that few need a kernel that looks where.
        """
        rows = _Rows(self, infos)
        rows.read_into(result.reshape(math.prod(result.shape[:-1]), result.shape[-1]))
        return rows.has_nan

    def _float32(self, info: ShardTensor) -> np.ndarray[Any, Any]:
        if info.kind not in _DTYPES:
            raise self._unusable(info.name, info.kind)
        return _widened(self.checkpoint.read(info.name), info.kind)


class _Rows:
    """The rows of a loader's matrices after each other, read once, from the first to the last."""

    def __init__(self, loader: Loader, infos: Sequence[ShardTensor]) -> None:
        self._loader = loader
        self._left = deque(infos)
        self._first = 0  # of the rows of the first matrix that are not read yet
        self._scales: np.ndarray[Any, Any] | None = None  # of that matrix, where it is in fp8
        self.has_nan = False  # among the codes of fp8 that were read as they are

    def read_into(self, part: Any) -> None:
        """Reads as many rows as a tensor [rows, k] has: bytes where the dtype is the same, else values."""
        done = 0
        while done < part.shape[0]:
            info = self._left[0]
            count = min(part.shape[0] - done, info.shape[0] - self._first)
            self._read(info, part[done : done + count])
            done += count
            self._first += count
            if self._first == info.shape[0]:
                self._left.popleft()
                self._first, self._scales = 0, None

    def _read(self, info: ShardTensor, part: Any) -> None:
        checkpoint, device, bits = self._loader.checkpoint, self._loader.device, _BITS[part.itemsize]
        if _STORED.get(info.kind) != part.dtype:
            for first, count in _slabs(part.shape):
                values = unify.from_numpy(self._values(info, self._first + first, count))
                part[first : first + count].copy_(values.to(part.dtype))
            return
        if device.kind == "cpu":
            read = part.view(bits).numpy()
            checkpoint.read_into(info.name, read, self._first)
        else:
            read = checkpoint.read(info.name, self._first, part.shape[0])
            part.view(bits).copy_(unify.from_numpy(read, bits))
        if info.kind == "f8_e4m3":
            self.has_nan |= _has_nan(read)

    def _values(self, info: ShardTensor, first: int, count: int) -> np.ndarray[Any, Any]:
        """Rows of a matrix in float32."""
        checkpoint = self._loader.checkpoint
        if info.kind == "f8_e4m3":
            if self._scales is None:
                self._scales = checkpoint.read(info.name + _SCALES)
            return _from_fp8(checkpoint.read(info.name, first, count), self._scales, first)
        if info.kind not in _DTYPES:
            raise self._loader._unusable(info.name, info.kind)
        return _widened(checkpoint.read(info.name, first, count), info.kind)


def _slabs(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The rows of a matrix in parts of about _SLAB weights, as first row and count. No block of scales is cut."""
    rows = max(1, _SLAB // shape[1] // FP8_BLOCK) * FP8_BLOCK
    for first in range(0, shape[0], rows):
        yield first, min(rows, shape[0] - first)


def _has_nan(codes: np.ndarray[Any, Any]) -> bool:
    """Whether a code of float8_e4m3 is no number: 0x7F or 0xFF, the largest as int8 and as uint8."""
    import numpy as np

    return bool(codes.max() == 0xFF or codes.view(np.int8).max() == 0x7F)


def _widened(values: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Elements of one of _DTYPES in float32; those of bfloat16 are bits."""
    import numpy as np

    if kind == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _from_fp8(codes: np.ndarray[Any, Any], scales: np.ndarray[Any, Any], first: int) -> np.ndarray[Any, Any]:
    """Rows from `first` on of a float8_e4m3 matrix with a scale for each 128 × 128 block, as float32."""
    import numpy as np

    values = unify.from_numpy(np.arange(256, dtype=np.uint8), unify.float8_e4m3).to(unify.float32).numpy()
    result = np.empty(codes.shape, np.float32)
    start = 0
    while start < len(codes):  # a row of blocks at a time
        block = (first + start) // FP8_BLOCK
        rows = slice(start, min(len(codes), (block + 1) * FP8_BLOCK - first))
        factors = np.repeat(scales[block], FP8_BLOCK)[: codes.shape[1]]
        np.multiply(values[codes[rows]], factors, out=result[rows])
        start = rows.stop
    return result
