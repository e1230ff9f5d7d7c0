"""Rotary embedding against complex multiplication in float64."""

from __future__ import annotations

import math

import pytest
import torch

import unify as un
from unify.ops.rope import yarn_frequencies


def expected(x: torch.Tensor, positions: torch.Tensor, base: float, interleaved: bool) -> torch.Tensor:
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(1, dtype=torch.float64), positions.double()[:, None] * frequencies)[:, None]
    wide = x.double()
    pairs = wide.unflatten(-1, (half, 2)) if interleaved else wide.unflatten(-1, (2, half)).transpose(-1, -2)
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return (turned if interleaved else turned.transpose(-1, -2)).flatten(-2)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("width", [2, 64, 80, 128])
def test_matches_a_complex_rotation(width: int, interleaved: bool) -> None:
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(6, 3, width, generator=generator)
    positions = torch.tensor([0, 1, 17, 500, 4000, 8191], dtype=torch.int32)
    result = un.ops.rope(x, positions, base=100000.0, interleaved=interleaved)
    # The angle, up to 8191, is a float32: half an ulp of it is 2.4e-4.
    torch.testing.assert_close(result.double(), expected(x, positions, 1e5, interleaved), rtol=0, atol=2e-3)
    torch.testing.assert_close(result[:3].double(), expected(x, positions, 1e5, interleaved)[:3], rtol=0, atol=1e-5)


def test_frequencies_may_be_given() -> None:
    x, positions = torch.randn(3, 2, 64), torch.tensor([0, 1, 9], dtype=torch.int32)
    frequencies = 500.0 ** (-torch.arange(32) / 32)
    result = un.ops.rope(x, positions, frequencies=frequencies)
    torch.testing.assert_close(result.double(), expected(x, positions, 500.0, True), rtol=0, atol=1e-5)
    with pytest.raises(un.errors.ShapeError, match=r"frequencies must be \[32\].*it is \[64\]"):
        un.ops.rope(x, positions, frequencies=torch.ones(64))


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("magnitude", [0.5, 1.25, 2])
def test_a_magnitude_multiplies_what_is_turned(magnitude: float, interleaved: bool) -> None:
    x = torch.randn(5, 3, 48, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 77, 500, 9], dtype=torch.int32)
    turned = un.ops.rope(x, positions, interleaved=interleaved)
    longer = un.ops.rope(x, positions, interleaved=interleaved, magnitude=magnitude)
    torch.testing.assert_close(longer, turned * magnitude, rtol=1e-6, atol=1e-6)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(un.errors.InvalidArgument, match="magnitude must be a finite number"):
            un.ops.rope(x, positions, magnitude=wrong)


def test_heads_may_be_a_slice_of_a_wider_array() -> None:
    wide = torch.randn(4, 5, 64)
    positions = torch.arange(4, dtype=torch.int32)
    result = un.ops.rope(wide[:, 1:3], positions)
    torch.testing.assert_close(result.double(), expected(wide[:, 1:3], positions, 1e4, True), rtol=0, atol=1e-5)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(un.errors.ShapeError, match="even d"):
        un.ops.rope(torch.ones(1, 1, 3), torch.zeros(1, dtype=torch.int32))


def test_positions_of_another_dtype_are_refused() -> None:
    with pytest.raises(un.errors.DTypeError, match="positions"):
        un.ops.rope(torch.ones(1, 1, 4), torch.zeros(1))


YARN = [  # width, base, factor, original context, further settings; the second is DeepSeek-V3's, the third gpt-oss's
    (128, 1e4, 4.0, 4096, {}),
    (64, 1e4, 40.0, 4096, {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}),
    (64, 150000.0, 32.0, 4096, {"truncate": False}),
    (64, 1e6, 8.0, 32768, {"beta_fast": 16, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.2}),
    (8, 1e4, 0.5, 64, {"beta_fast": 2, "beta_slow": 1}),
    (4, 1e4, 2.0, 8, {}),
]


@pytest.mark.parametrize(("width", "base", "factor", "context", "options"), YARN)
def test_yarn_is_transformers_own(
    width: int, base: float, factor: float, context: int, options: dict[str, float]
) -> None:
    pytest.importorskip("transformers", reason="the peer of this test; in the dev extra")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = {"rope_type": "yarn", "rope_theta": base, "factor": factor, **options}
    settings["original_max_position_embeddings"] = context
    config = LlamaConfig(
        head_dim=width, hidden_size=width, num_attention_heads=1, max_position_embeddings=int(context * factor),
        rope_parameters=settings,
    )  # fmt: skip
    wanted, scale = ROPE_INIT_FUNCTIONS["yarn"](config)
    ours, our_scale = yarn_frequencies(width, base, factor, context, **options)
    torch.testing.assert_close(torch.from_dlpack(ours), wanted, rtol=3e-6, atol=0.0)  # they compute in float32
    assert our_scale == pytest.approx(scale, rel=1e-12)


def test_a_factor_of_one_changes_no_frequency() -> None:
    frequencies, scale = yarn_frequencies(64, 500.0, 1.0, 4096)
    torch.testing.assert_close(torch.from_dlpack(frequencies), 500.0 ** (-torch.arange(32) / 32), rtol=1e-6, atol=0.0)
    assert scale == 1.0


@pytest.mark.parametrize("wrong", [(63, 1e4, 4.0, 4096), (64, 1.0, 4.0, 4096), (64, 1e4, 0.0, 4096), (64, 1e4, 4.0, 0)])
def test_sizes_that_are_none_are_refused(wrong: tuple[int, float, float, int]) -> None:
    with pytest.raises(un.errors.InvalidArgument, match="yarn_frequencies"):
        yarn_frequencies(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": math.inf},
        {"factor": math.nan},
        {"base": math.inf},
        {"original_context": math.inf},
        {"beta_fast": 0.0},
        {"beta_slow": -1.0},
        {"beta_fast": math.nan},
        {"mscale": math.nan, "mscale_all_dim": 1.0},
        {"mscale": 1.0, "mscale_all_dim": math.inf},
    ],
)
def test_numbers_that_make_no_frequencies_are_refused(wrong: dict[str, float]) -> None:
    given = {"width": 64, "base": 1e4, "factor": 4.0, "original_context": 4096, **wrong}
    with pytest.raises(un.errors.InvalidArgument, match=f"yarn_frequencies: .*{next(iter(wrong))}"):
        yarn_frequencies(**given)
