"""Choosing the experts of each token, and bringing tokens into the order of their experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op
from .sampling import _ordered as ordered

_NONE = 2147483647  # no expert, no capacity


def sort_tile(device: Any, lanes: int) -> tuple[int, int]:
    """How many assignments a program counts, and how many blocks of them one adds up at a time, for `lanes` experts.

    It compares assignments with each other and with all experts. On Ascend as many as a vector core has room for.
    """
    if device.kind == "ascend":
        return min(64, max(16, 8192 // lanes)), min(16, max(1, 1024 // lanes))
    return 64, 16


def power_of_two(number: int) -> int:
    """The least power of two from 1 on that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


# One program a token. Experts are a tile [groups, experts of a group], with room to powers of two. A chosen one's key
# becomes the smallest integer, below that of any number: what is left over and what is padding are never equal.
@unify.jit
def route_kernel(
    logits, bias, weights, ids, row_stride, scale,
    GROUPS: tl.constexpr, SIZE: tl.constexpr, GROUP_LANES: tl.constexpr, LANES: tl.constexpr, TOP_K: tl.constexpr,
    TOP_GROUPS: tl.constexpr, SLOTS: tl.constexpr, SIGMOID: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUP_LANES)
    member = tl.arange(0, LANES)
    expert = group[:, None] * SIZE + member[None, :]
    inside = (group < GROUPS)[:, None] & (member < SIZE)[None, :]
    place = tl.where(inside, expert, 0)  # where a chip reads what a mask leaves out
    logit = tl.load(logits + token * row_stride + place, mask=inside, other=float("-inf")).to(tl.float32)
    if SIGMOID:
        score = 1.0 / (1.0 + tl.exp(-logit))
    else:
        score = tl.where(inside, tl.exp(logit - tl.max(tl.max(logit, axis=1), axis=0)), 0.0)
        score = score / tl.sum(tl.sum(score, axis=1), axis=0)
    # A logit and its score are in one order, but scores may be equal where logits are not.
    wanted = logit
    if bias is not None:
        wanted = score + tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    elif SIGMOID and GROUPS > 1:
        wanted = score
    key = tl.where(inside, ordered(wanted), -2147483648)
    if TOP_GROUPS < GROUPS:
        # DeepSeek-V3 (2024), section 2.1.2: the sum of a group's two largest. DeepSeek-V2, 2.1.2: its largest.
        number = tl.where(inside & (wanted == wanted), wanted, float("-inf"))
        value = tl.max(number, axis=1)
        if (SIGMOID or bias is not None) and SIZE > 1:
            first = tl.min(tl.where(number == value[:, None], member[None, :], LANES), axis=1)
            value += tl.max(tl.where(member[None, :] == first[:, None], float("-inf"), number), axis=1)
        group_key = tl.where(group < GROUPS, ordered(value), -2147483648)
        kept = tl.zeros([GROUP_LANES], dtype=tl.int32)
        for _ in range(TOP_GROUPS):
            best = tl.min(tl.where(group_key == tl.max(group_key, axis=0), group, GROUP_LANES), axis=0)
            kept = tl.where(group == best, 1, kept)
            group_key = tl.where(group == best, -2147483648, group_key)
        key = tl.where((kept > 0)[:, None], key, -2147483648)
    slot = tl.arange(0, SLOTS)
    chosen = tl.zeros([SLOTS], dtype=tl.int32)
    weight = tl.zeros([SLOTS], dtype=tl.float32)
    for i in range(TOP_K):
        top = tl.max(tl.max(key, axis=1), axis=0)
        best = tl.min(tl.min(tl.where(key == top, expert, 2147483647), axis=1), axis=0)
        here = tl.sum(tl.sum(tl.where(inside & (expert == best), score, 0.0), axis=1), axis=0)
        chosen = tl.where(slot == i, best, chosen)
        weight = tl.where(slot == i, here, weight)
        key = tl.where(expert == best, -2147483648, key)
    if NORMALIZE:
        weight = weight / (tl.sum(weight, axis=0) + 1.0e-20)
    tl.store(ids + token * TOP_K + slot, chosen, mask=slot < TOP_K)
    tl.store(weights + token * TOP_K + slot, weight * scale, mask=slot < TOP_K)


@op
def route(
    logits: Any, top_k: int, *, score: Literal["softmax", "sigmoid"] = "softmax", bias: Any = None, groups: int = 1,
    top_groups: int = 1, normalize: bool = True, scale: float = 1.0, stream: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Chooses top_k experts for each token, and how much each of them counts.

    logits: [t, experts] float16, bfloat16 or float32. A token's scores are the softmax of its logits over all experts,
    or the sigmoid of each. Chosen are the largest of score + bias; of equals the expert with the lowest number. The
    weights are the scores without bias, normalize: over their sum (plus 1e-20), times scale.
    bias: [experts], of a float dtype. groups, top_groups: only experts of the top_groups best of `groups` groups of
    neighbours are chosen. A group counts as much as its two largest scores with bias together (DeepSeek-V3, 2024,
    section 2.1.2); with softmax and no bias as its largest (DeepSeek-V2, 2024, section 2.1.2).
    A NaN is chosen when nothing else is left. A row with a NaN, a positive infinity or nothing but negative infinities
    gets NaN as weights under softmax, as the softmax of such a row is; under sigmoid a NaN stays with its expert if
    normalize is off. The experts are different ones of those that exist in any case.
    Returns weights, float32 [t, top_k], and experts, int32 [t, top_k], by falling score (with bias), of the kind of
    logits, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> ops.route(np.array([[0.0, 2.0, 2.0, 1.0]], np.float32), 2)[1]
    array([[1, 2]], dtype=int32)
    """
    scores = as_tensor(logits, name="route: logits", dtype=FLOATS)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ShapeError(f"route: logits must be [tokens, experts], with experts; they are {list(scores.shape)}.")
    tokens, experts = scores.shape
    if score not in ("softmax", "sigmoid"):
        raise InvalidArgument(f"route: score must be 'softmax' or 'sigmoid'; it is {score!r}.")
    if groups < 1 or experts % groups or not 1 <= top_groups <= groups:
        raise InvalidArgument(
            f"route: groups must divide the {experts} experts, and top_groups be 1 to groups; {groups=}, {top_groups=}."
        )
    size = experts // groups
    if not 1 <= top_k <= top_groups * size:
        raise InvalidArgument(
            f"route: top_k must be 1 to {top_groups * size}, the experts of {top_groups} groups of {size}; {top_k=}."
        )
    added = None
    if bias is not None:
        added = as_tensor(bias, name="route: bias", dtype=FLOATS, device=scores.device, contiguous=True)
        if added.shape != (experts,):
            raise ShapeError(f"route: bias must be [{experts}], one for each expert; it is {list(added.shape)}.")
    if scores.strides[1] != 1:
        scores = scores.contiguous()
    weights = unify.empty((tokens, top_k), dtype=unify.float32, device=scores.device)
    ids = unify.empty((tokens, top_k), dtype=unify.int32, device=scores.device)
    route_kernel[(tokens,)](
        scores, added, weights, ids, scores.strides[0], float(scale),
        GROUPS=groups, SIZE=size, GROUP_LANES=power_of_two(groups), LANES=power_of_two(size), TOP_K=top_k,
        TOP_GROUPS=top_groups, SLOTS=power_of_two(top_k), SIGMOID=score == "sigmoid", NORMALIZE=bool(normalize),
    )  # fmt: skip
    return wrap_like(weights, logits), wrap_like(ids, logits)


# A stable counting sort without atomics, in three kernels: how many assignments of each block of BLOCK go to each
# expert; how many went to it before, and where each expert begins; where each assignment belongs.
@unify.jit
def count_kernel(ids, counts, size, BLOCK: tl.constexpr, EXPERTS: tl.constexpr):
    block = tl.program_id(0)
    place = block * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    mine = tl.load(ids + place, mask=place < size, other=-1)
    count = tl.sum((mine[:, None] == expert[None, :]).to(tl.int32), axis=0)
    tl.store(counts + block * EXPERTS + expert, count)


# One program. counts becomes what was counted in the blocks before.
@unify.jit
def offsets_kernel(
    counts, loads, offsets, blocks, experts, capacity, PARTS: tl.constexpr, EXPERTS: tl.constexpr
):  # fmt: skip
    expert = tl.arange(0, EXPERTS)
    total = tl.zeros([EXPERTS], dtype=tl.int32)
    for first in range(0, blocks, PARTS):
        block = first + tl.arange(0, PARTS)
        place = counts + block[:, None] * EXPERTS + expert[None, :]
        inside = (block < blocks)[:, None]
        count = tl.load(place, mask=inside, other=0)
        tl.store(place, tl.cumsum(count, axis=0) - count + total[None, :], mask=inside)
        total += tl.sum(count, axis=0)
    tl.store(loads + expert, total, mask=expert < experts)
    kept = tl.minimum(total, capacity)
    tl.store(offsets + expert, tl.cumsum(kept, axis=0) - kept, mask=expert < experts)
    tl.store(offsets + experts, tl.sum(tl.where(expert < experts, kept, 0), axis=0))


# An assignment that is dropped, or none, gets a place of its own behind the others, so that the store needs no mask.
@unify.jit
def place_kernel(
    ids, before, offsets, tokens, places, size, experts, capacity, BLOCK: tl.constexpr, EXPERTS: tl.constexpr
):  # fmt: skip
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    place = block * BLOCK + lane
    mine = tl.load(ids + place, mask=place < size, other=-1)
    other = tl.load(ids + block * BLOCK + lane, mask=place < size, other=-1)
    earlier = (mine[:, None] == other[None, :]) & (lane[None, :] < lane[:, None])
    rank = tl.sum(earlier.to(tl.int32), axis=1)
    exists = (mine >= 0) & (mine < experts)
    expert = tl.where(exists, mine, 0)
    rank += tl.load(before + block * EXPERTS + expert)
    kept = exists & (rank < capacity)
    target = tl.load(offsets + expert) + rank
    tl.store(places + place, tl.where(kept, target, -1), mask=place < size)
    tl.store(tokens + tl.where(kept, target, size + lane), place)


@dataclass(frozen=True)
class Permutation:
    """Assignments of tokens to experts in the order of experts, and of tokens for each expert.

    offsets: int32 [experts + 1], where each expert's rows begin, and where the last one's end; tokens: int32 [t · k],
    of each row the assignment token · k + slot, undefined behind the last row; places: int32 [t, k], of each assignment
    its row, -1 for one that was dropped.
    """

    offsets: Any
    tokens: Any
    places: Any


@op
def permute(ids: Any, experts: int, *, capacity: int | None = None, stream: Any = None) -> Permutation:
    """Sorts the assignments of tokens to experts by expert, in the order of tokens within each.

    ids: int32 [t, k], as `route` gives them; an assignment outside of [0, experts) is dropped. capacity: how many
    tokens an expert takes; the later ones are dropped (Switch Transformer, Fedus et al. 2022, section 2.2).
    Nothing is asked of the order of programs: equal inputs give equal results.
    Returns a Permutation with arrays of the kind of ids, enqueued on `stream` (default: the current one of the ids'
    device).
    Raises ShapeError, DTypeError, InvalidArgument; nothing is enqueued then.

    >>> ops.permute(np.array([[1, 0], [1, 2]], np.int32), 3).offsets
    array([0, 1, 3, 4], dtype=int32)
    """
    wanted = _ids("permute", ids, experts)
    if capacity is not None and capacity < 0:
        raise InvalidArgument(f"permute: capacity must not be negative; it is {capacity}.")
    found = sort(wanted, experts, _NONE if capacity is None else min(capacity, _NONE))
    return Permutation(*(wrap_like(tensor, ids) for tensor in (found.offsets, found.tokens, found.places)))


@op
def expert_load(ids: Any, experts: int, *, stream: Any = None) -> Any:
    """How many assignments each expert has: int32 [experts].

    ids: int32 [t, k], as `route` gives them; those outside of [0, experts) count for none.
    Returns an array of the kind of ids, enqueued on `stream` (default: the current one of the ids' device).
    Raises ShapeError, DTypeError, InvalidArgument; nothing is enqueued then.

    >>> ops.expert_load(np.array([[1, 0], [1, 2]], np.int32), 4)
    array([1, 2, 1, 0], dtype=int32)
    """
    wanted = _ids("expert_load", ids, experts)
    _, loads, _ = _counted(wanted, experts, _NONE)
    return wrap_like(loads, ids)


def _ids(name: str, ids: Any, experts: int) -> Any:
    wanted = as_tensor(ids, name=f"{name}: ids", dtype=unify.int32, contiguous=True)
    if wanted.ndim != 2:
        raise ShapeError(f"{name}: ids must be [tokens, k]; they are {list(wanted.shape)}.")
    if experts < 1:
        raise InvalidArgument(f"{name}: experts must be at least 1; it is {experts}.")
    return wanted


def _counted(ids: Any, experts: int, capacity: int) -> tuple[Any, Any, Any]:
    """What each expert got before each block of assignments, what it got in all, and where it begins."""
    size, device = ids.size, ids.device
    lanes = power_of_two(experts)
    block, parts = sort_tile(device, lanes)
    blocks = -(-size // block)
    counts = unify.empty((blocks, lanes), dtype=unify.int32, device=device)
    loads = unify.empty((experts,), dtype=unify.int32, device=device)
    offsets = unify.empty((experts + 1,), dtype=unify.int32, device=device)
    count_kernel[(blocks,)](ids, counts, size, BLOCK=block, EXPERTS=lanes)
    offsets_kernel[(1,)](counts, loads, offsets, blocks, experts, capacity, PARTS=parts, EXPERTS=lanes)
    return counts, loads, offsets


def sort(ids: Any, experts: int, capacity: int = _NONE) -> Permutation:
    """`permute` of a tensor that was looked at already, enqueued on the current stream."""
    size, device = ids.size, ids.device
    before, _, offsets = _counted(ids, experts, capacity)
    block, _ = sort_tile(device, before.shape[1])
    tokens = unify.empty((size + block,), dtype=unify.int32, device=device)
    places = unify.empty(ids.shape, dtype=unify.int32, device=device)
    place_kernel[(before.shape[0],)](
        ids, before, offsets, tokens, places, size, experts, capacity, BLOCK=block, EXPERTS=before.shape[1]
    )
    return Permutation(offsets, tokens[:size], places)
