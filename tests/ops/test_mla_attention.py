"""Latent attention in its absorbed form against its expanded one, in float64, and what writes and reads its cache."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

from .plain_attention import DTYPES, assert_attends
from .test_paged_attention import ints, starts


def cache_of(
    lengths: list[int], size: int, rank: int, rope: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """A cache, its table and each sequence's rows. Unwritten places are NaN: reading one shows."""
    columns = max(1, *(-(-length // size) for length in lengths))
    cache = torch.full((len(lengths) * columns + 2, size, rank + rope), torch.nan, dtype=dtype)
    order = torch.randperm(len(cache), generator=generator).int()
    table = order[: len(lengths) * columns].reshape(len(lengths), columns).contiguous()
    rows = [torch.randn(length, rank + rope, generator=generator).to(dtype) for length in lengths]
    for own, blocks in zip(rows, table, strict=True):
        place = torch.arange(len(own))
        slots = (blocks[place // size] * size + place % size).int()
        un.ops.latent_write(own[:, :rank], own[:, rank:], cache, slots)
    return cache, table, rows


@pytest.mark.parametrize("splits", [None, 1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_matches_the_formula(dtype: torch.dtype, splits: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 0, 37, 128]
    cache, table, rows = cache_of(lengths, 32, 96, 16, dtype, generator)
    q = torch.randn(4, 6, 112, generator=generator).to(dtype)
    result, lse = un.ops.mla_attention(
        q, cache, table, ints(*lengths), rank=96, scale=0.1, splits=splits, return_lse=True
    )
    for i, own in enumerate(rows):
        one, k = slice(i, i + 1), own[:, None]
        assert_attends(result[one], q[one], k, k[..., :96], False, 0.1, lse=lse[one])


@pytest.mark.parametrize("heads", [1, 20, 130])
@pytest.mark.parametrize("size", [1, 10, 16])
def test_any_number_of_heads_and_any_page(size: int, heads: int) -> None:
    generator = torch.Generator().manual_seed(size)
    cache, table, rows = cache_of([45], size, 32, 24, torch.float32, generator)
    q = torch.randn(1, heads, 56, generator=generator)
    result = un.ops.mla_attention(q, cache, table, ints(45), rank=32, scale=0.2)
    assert_attends(result, q, rows[0][:, None], rows[0][:, None, :32], False, 0.2)


def test_the_absorbed_form_is_the_expanded_one() -> None:
    # Heads of 24 + 8 features and values of 20, whose keys and values are made of 40 latent ones.
    heads, rank, rope, head, value, tokens = 4, 40, 8, 24, 20, 50
    generator = torch.Generator().manual_seed(6)
    cache, table, (rows,) = cache_of([tokens], 16, rank, rope, torch.float32, generator)
    key_matrix = torch.randn(heads, head, rank, generator=generator) / rank**0.5
    value_matrix = torch.randn(heads, rank, value, generator=generator) / rank**0.5
    q = torch.randn(1, heads, head + rope, generator=generator)

    absorbed = un.ops.matmul(q[..., :head].transpose(0, 1), key_matrix).transpose(0, 1)
    latent = un.ops.mla_attention(
        torch.cat([absorbed, q[..., head:]], dim=2), cache, table, ints(tokens), rank=rank, scale=(head + rope) ** -0.5
    )
    found = un.ops.matmul(latent.transpose(0, 1), value_matrix).transpose(0, 1)

    read = un.ops.latent_read(cache, table, starts([tokens]), tokens)
    assert torch.equal(read, rows)
    keys = torch.einsum("tr,hdr->thd", read[:, :rank], key_matrix)
    keys = torch.cat([keys, read[:, None, rank:].expand(-1, heads, -1)], dim=2)
    values = torch.einsum("tr,hrv->thv", read[:, :rank], value_matrix)
    torch.testing.assert_close(found, un.ops.attention(q, keys, values), rtol=1e-4, atol=1e-4)


HOLES = st.sampled_from([-1, -(2**31), 2**31 - 1, 8])
LENGTHS = st.lists(st.integers(0, 45), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=LENGTHS, hole=HOLES, pages=st.sampled_from([(10, torch.float32), (16, torch.bfloat16)]),
    splits=st.sampled_from([1, 4]), spoilt=st.integers(0, 2),
)  # fmt: skip
def test_any_lengths_over_tables_with_holes(
    lengths: list[int], hole: int, pages: tuple[int, torch.dtype], splits: int, spoilt: int
) -> None:
    # Behind a sequence's last page its table names no block; the first query's first head has a NaN, and so has a row.
    size, dtype = pages
    generator = torch.Generator().manual_seed(sum(lengths))
    cache, table, rows = cache_of(lengths, size, 32, 24, dtype, generator)
    for i, length in enumerate(lengths):
        table[i, -(-length // size) :] = hole
    q = torch.randn(len(lengths), 3, 56, generator=generator).to(dtype)
    q[0, 0, 40] = torch.nan
    broken = spoilt < len(lengths) and lengths[spoilt] > 0
    if broken:
        last = lengths[spoilt] - 1
        cache[table[spoilt, last // size], last % size, 5] = torch.nan
    result, lse = un.ops.mla_attention(
        q, cache, table, ints(*lengths), rank=32, scale=0.1, splits=splits, return_lse=True
    )
    for i, own in enumerate(rows):
        if len(own) == 0:
            assert (result[i] == 0).all()
            assert torch.isneginf(lse[i]).all()
        elif broken and i == spoilt:
            assert result[i].isnan().all()
            assert lse[i].isnan().all()
        else:
            sound = slice(1 if i == 0 else 0, None)
            one, k = (slice(i, i + 1), sound), own[:, None]
            assert_attends(result[one], q[one], k, k[..., :32], False, 0.1, lse=lse[one])
            assert result[i, : sound.start].isnan().all()


def test_an_infinite_score_is_no_number_and_a_negative_one_has_no_weight() -> None:
    q, cache, table = torch.ones(1, 1, 24), torch.zeros(1, 16, 24), ints(0)[None]
    cache[0, 1, 20] = -torch.inf  # behind the rank: a score of -inf, and a value as others
    cache[0, :2, :16] = torch.tensor([3.0, 5.0])[:, None]
    result, lse = un.ops.mla_attention(q, cache, table, ints(2), rank=16, scale=0.1, return_lse=True)
    torch.testing.assert_close(result, torch.full((1, 1, 16), 3.0))
    torch.testing.assert_close(lse, torch.tensor([[4.8]]))
    cache[0, 1, 20] = torch.inf
    assert un.ops.mla_attention(q, cache, table, ints(2), rank=16, scale=0.1).isnan().all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths=LENGTHS, hole=HOLES, size=st.sampled_from([1, 10, 16]), more=st.integers(-20, 20), data=st.data())
def test_what_is_written_is_read(lengths: list[int], hole: int, size: int, more: int, data: st.DataObject) -> None:
    # Some tokens have slots that are none; those that have one are read back bit by bit, NaN and infinity too.
    generator = torch.Generator().manual_seed(sum(lengths))
    made, table, _ = cache_of(lengths, size, 24, 8, torch.bfloat16, generator)
    whole = torch.cat([made, torch.full_like(made[:1], 7.0)])  # the block behind is not the cache's
    cache, before = whole[:-1], whole.clone()
    tokens = data.draw(st.lists(st.integers(-3, cache.shape[0] * size + 2), max_size=8, unique=True))
    tokens += data.draw(st.lists(st.sampled_from([-(2**31), 2**31 - 1]), max_size=2))
    new = torch.randn(len(tokens), 32, generator=generator).bfloat16()
    if tokens:
        new[0, [3, 30]] = torch.tensor([torch.nan, torch.inf]).bfloat16()
    un.ops.latent_write(new[:, :24], new[:, 24:], cache, ints(*tokens))
    flat, wanted = whole.reshape(-1, 32), before.reshape(-1, 32)
    for token, row in zip(tokens, new, strict=True):
        if 0 <= token < len(made) * size:
            wanted[token] = row
    assert torch.equal(flat.view(torch.int16), wanted.view(torch.int16))

    for i, length in enumerate(lengths):
        table[i, -(-length // size) :] = hole
    total = max(0, sum(lengths) + more)
    read = un.ops.latent_read(cache, table, starts(lengths), total)
    places = [
        wanted[block * size : (block + 1) * size]
        for own, length in zip(table.tolist(), lengths, strict=True)
        for block in own[: -(-length // size)]
    ]
    pages = iter(places)
    sequences = [torch.cat([wanted[:0], *itertools.islice(pages, -(-n // size))])[:n] for n in lengths]
    gathered = torch.cat([*sequences, torch.zeros(max(0, more), 32).bfloat16()])[:total]
    assert torch.equal(read.view(torch.int16), gathered.view(torch.int16))


def test_reading_gathers_sequences() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 0, 40, 16]
    cache, table, rows = cache_of(lengths, 16, 24, 8, torch.bfloat16, generator)
    read = un.ops.latent_read(cache, table, starts(lengths), sum(lengths) + 3)
    assert torch.equal(read[: sum(lengths)], torch.cat(rows))
    assert (read[sum(lengths) :] == 0).all()
    assert un.ops.latent_read(cache, table, starts(lengths), 0).shape == (0, 32)
    assert (un.ops.latent_read(cache, table[:0], starts([]), 2) == 0).all()


def test_what_lies_outside_of_the_table_and_the_cache_is_not_touched() -> None:
    cache = torch.full((6, 16, 24), torch.nan)
    cache[:2] = 1.0
    table = torch.tensor([[0, 1, 5, 5]], dtype=torch.int32)[:, :2]
    q = torch.ones(1, 2, 24)
    for length in (64, 2**31 - 1):
        result = un.ops.mla_attention(q, cache[:2], table, ints(length), rank=16, scale=0.1)
        torch.testing.assert_close(result, torch.ones(1, 2, 16))
        read = un.ops.latent_read(cache[:2], table, ints(0, length), 40)
        assert (read[:32] == 1).all()
        assert (read[32:] == 0).all()
    for strange in (2, 5, 2**31 - 1, -1, -(2**31)):
        odd = ints(0, strange)[None]
        assert torch.isfinite(un.ops.mla_attention(q, cache[:2], odd, ints(32), rank=16, scale=0.1)).all()
        assert (un.ops.latent_read(cache[:2], odd, ints(0, 32), 32) == 1).all()
    slots = ints(-1, 19, 32, 50, -(2**31))
    un.ops.latent_write(torch.zeros(5, 16), torch.zeros(5, 8), cache[:2], slots)
    assert (cache[:2] == 0).all(dim=2).flatten().nonzero().flatten().tolist() == [19]
    assert torch.isnan(cache[2:]).all()


Q, CACHE, TABLE = torch.ones(2, 4, 24), torch.ones(3, 16, 24), torch.zeros(2, 3, dtype=torch.int32)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"q": Q[..., :20]}, un.errors.ShapeError, r"q must be \[batch, heads, rank \+ rope\]"),
        ({"q": Q[:, :0]}, un.errors.ShapeError, r"q must be \[batch, heads, rank \+ rope\]"),
        ({"cache": CACHE[None]}, un.errors.ShapeError, "cache must be"),
        ({"cache": CACHE[:0]}, un.errors.ShapeError, "with a block and a row"),
        ({"cache": torch.ones(3, 16, 48)[..., ::2]}, un.errors.LayoutError, "last axis must be contiguous"),
        ({"cache": CACHE.half()}, un.errors.DTypeError, "cache: must be float32"),
        ({"block_table": TABLE[:1]}, un.errors.ShapeError, r"block_table must be \[2, max_blocks\]"),
        ({"context_lens": ints(1)}, un.errors.ShapeError, r"context_lens must be \[2\]"),
        ({"rank": 24}, un.errors.InvalidArgument, "rank must be 1 to 23"),
        ({"rank": 0}, un.errors.InvalidArgument, "rank must be 1 to 23"),
        ({"splits": 3}, un.errors.InvalidArgument, r"splits must be a power of two \(1, 2, 4, …\), or None; it is 3"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"q": Q, "cache": CACHE, "block_table": TABLE, "context_lens": ints(1, 1), "rank": 16, "scale": 1.0}
    with pytest.raises(error, match=f"mla_attention.*{words}"):
        un.ops.mla_attention(**{**arguments, **given})


@pytest.mark.parametrize(
    ("latent", "rope", "slots"),
    [((2, 16), (2, 4), 2), ((2, 16), (3, 8), 2), ((2, 16), (2, 8), 3), ((2, 24), (2, 0), 2)],
)
def test_rows_that_do_not_fit_are_not_written(latent: tuple[int, ...], rope: tuple[int, ...], slots: int) -> None:
    with pytest.raises(un.errors.ShapeError, match="latent_write: latent must be"):
        un.ops.latent_write(
            torch.ones(latent), torch.ones(rope), torch.ones(3, 16, 24), torch.zeros(slots, dtype=torch.int32)
        )


def test_a_number_of_rows_below_zero_is_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match="total must be at least 0"):
        un.ops.latent_read(CACHE, TABLE, starts([1, 1]), -1)
