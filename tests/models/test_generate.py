"""The loop that writes text, on a model of two layers: against transformers, against itself, and interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import unify as un
from unify import models
from unify.models import Generator, Sampling
from unify.models.kv_cache import BLOCK_SIZE

from ..conftest import Run
from .conftest import CONTEXT, SPECIAL, TOKENS, write_model

Tiny = tuple[models.Llama, models.Tokenizer]


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng([seed, length])
    return rng.integers(len(SPECIAL), len(TOKENS), length).tolist()


def logits(model: models.Llama, ids: list[int]) -> np.ndarray:
    """Of a full forward pass, in one piece, with a cache of its own."""
    return model.prefill(un.asarray(ids, dtype=un.int32), model.cache(len(ids)), all_logits=True).numpy()


def peer_of(path: Path) -> Any:
    """The model as transformers loads it."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def peer(tiny_path: Path) -> Any:
    return peer_of(tiny_path)


@pytest.mark.parametrize("length", [1, 7, BLOCK_SIZE + 1, 200])
def test_logits_are_those_of_transformers(tiny: Tiny, peer: Any, length: int) -> None:
    ids = prompt(length)
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits(tiny[0], ids) - expected).max() <= 1e-4 * np.abs(expected).max()


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def scaled_peer(path: Path, scaling: dict[str, Any]) -> Any:
    """The model as transformers computes it with scaled positions, which it does not read from a GGUF file."""
    import transformers

    plain = peer_of(path)
    plain.config.rope_parameters = {"rope_theta": 10000.0, **scaling}
    scaled = transformers.LlamaForCausalLM(plain.config)
    scaled.load_state_dict(plain.state_dict())
    return scaled.eval()


@pytest.mark.parametrize("told", ["tensor", "factor", "older factor"])
def test_scaled_positions_give_what_transformers_gives(tmp_path: Path, tiny_path: Path, told: str) -> None:
    peer = scaled_peer(tiny_path, LLAMA3 if told == "tensor" else {"rope_type": "linear", "factor": 4.0})
    # Of the eight frequencies, Llama 3.1 leaves some, divides some by 8, and blends one in between.
    factors = 10000.0 ** (-np.arange(8) / 8) / peer.model.rotary_emb.inv_freq.numpy()
    given: dict[str, Any] = {
        "tensor": {"vectors": {"rope_freqs.weight": factors}},
        "factor": {"changes": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
        "older factor": {"changes": {"llama.rope.scale_linear": 4.0}},
    }
    path = write_model(tmp_path / "scaled.gguf", **given[told])
    ids = prompt(200)
    with torch.no_grad():
        expected = peer(torch.tensor([ids])).logits[0].numpy()
    model, tokenizer = models.load(str(path))
    full = logits(model, ids)
    assert np.abs(full - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(full - logits(models.load(str(tiny_path))[0], ids)).max() > 1e-2 * np.abs(expected).max()
    answer = Generator(model, tokenizer, max_context=256).generate(ids[:50], 20)  # by a recorded step
    assert answer.token_ids == logits(model, ids[:50] + answer.token_ids)[49:-1].argmax(-1).tolist()


LENGTHS = [1, 2, 63, 64, 65, 127, 128, 200]


@pytest.mark.parametrize("length", LENGTHS)
def test_each_greedy_token_is_what_a_full_forward_pass_gives(tiny: Tiny, length: int) -> None:
    ids = prompt(length)
    answer = Generator(*tiny, max_context=CONTEXT).generate(ids, 70)  # over a block's end
    assert len(answer.token_ids) == 70
    full = logits(tiny[0], ids + answer.token_ids)[length - 1 : -1]
    assert full.argmax(-1).tolist() == answer.token_ids


def test_heads_may_be_wider_than_the_model_together(tmp_path: Path) -> None:
    shapes = {
        f"blk.{layer}.{name}.weight": shape
        for layer in range(2)
        for name, shape in {
            "attn_q": (128, 64), "attn_k": (64, 64), "attn_v": (64, 64), "attn_output": (64, 128),
        }.items()
    }  # fmt: skip
    changes = {"llama.rope.dimension_count": 32, "llama.attention.key_length": 32, "llama.attention.value_length": 32}
    path = write_model(tmp_path / "wide.gguf", changes=changes, shapes=shapes)
    ids = prompt(70)
    with torch.no_grad():
        expected = peer_of(path)(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits(models.load(str(path))[0], ids) - expected).max() <= 1e-4 * np.abs(expected).max()


def kept_and_dense(path: Path, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits with weights as the file has them, and with all of them dequantised."""
    return tuple(logits(models.load(str(path), dtype=dtype)[0], ids) for dtype in ("quantized", "float32"))


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0], ids=lambda kind: kind.name.lower())
def test_weights_that_stay_quantised_give_what_their_dequantised_values_give(tmp_path: Path, kind: Kind) -> None:
    ours, dense = kept_and_dense(write_model(tmp_path / "tiny.gguf", kind), prompt(90))
    # Activations are rounded to 16 bits in a block; two layers and three products each add up.
    assert np.abs(ours - dense).max() <= 1e-3 * np.abs(dense).max()


MIXED = {"blk.0.attn_v.weight": Kind.Q8_0, "blk.1.attn_k.weight": Kind.Q4_1, "blk.1.ffn_up.weight": Kind.Q8_0}


def bytes_of(path: Path) -> int:
    """Memory that a model's weights take on the device."""
    before = un.memory_statistics("cpu").allocated_bytes
    model = models.load(str(path))[0]
    taken = un.memory_statistics("cpu").allocated_bytes - before
    del model
    return taken


def test_parts_of_one_product_keep_their_formats_where_those_differ(tmp_path: Path) -> None:
    path = write_model(tmp_path / "mixed.gguf", Kind.Q4_0, kinds=MIXED)
    ids = prompt(90)
    ours, dense = kept_and_dense(path, ids)
    assert np.abs(ours - dense).max() <= 1e-3 * np.abs(dense).max()
    model, tokenizer = models.load(str(path))
    answer = Generator(model, tokenizer, max_context=128).generate(ids, 20)  # by a recorded step
    assert answer.token_ids == logits(model, ids + answer.token_ids)[89:-1].argmax(-1).tolist()
    # Eight bits for four where the file has them; float32 would be eight times as much.
    assert bytes_of(path) < 1.5 * bytes_of(write_model(tmp_path / "plain.gguf", Kind.Q4_0))


@pytest.mark.parametrize("kind", [Kind.BF16, Kind.F16, Kind.Q5_0], ids=lambda kind: kind.name.lower())
def test_weights_that_become_float32_are_told_of_once_by_kind_and_size(tmp_path: Path, kind: Kind) -> None:
    path = write_model(tmp_path / "tiny.gguf", kind, kinds={"output.weight": Kind.Q8_0})
    megabytes = 2 * 4 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3) / 1e6 + 4 * len(TOKENS) * 64 / 1e6
    told = rf"15 matrices \(15 {kind.name.lower()}\) become float32 in memory: {megabytes:.1f} MB for "
    with pytest.warns(RuntimeWarning, match=told) as warned:
        model = models.load(str(path))[0]
    assert len(warned) == 1
    ids = prompt(90)
    dense = logits(models.load(str(path), dtype="float32")[0], ids)  # asked for: nothing to warn of
    assert np.abs(logits(model, ids) - dense).max() <= 1e-3 * np.abs(dense).max()


def test_a_prompt_in_chunks_is_the_prompt_in_one(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "long.gguf", changes={"llama.context_length": 2048}))
    model, tokenizer = models.load(path)
    ids = prompt(1100)
    answer = Generator(model, tokenizer, max_context=1200).generate(ids, 5)
    assert answer.token_ids == logits(model, ids + answer.token_ids)[1099:-1].argmax(-1).tolist()


SAMPLING = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}


def test_a_seed_repeats_the_text_and_another_changes_it(tiny: Tiny) -> None:
    ids = prompt(10)
    texts = [
        Generator(*tiny, Sampling(**SAMPLING, seed=seed), max_context=128).generate(ids, 30).token_ids
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_same_generator_repeats_its_text(tiny: Tiny) -> None:
    generator = Generator(*tiny, Sampling(**SAMPLING, repetition_penalty=1.2, seed=3), max_context=128)
    first, again = (generator.generate(prompt(10), 30) for _ in range(2))
    assert again.token_ids == first.token_ids
    assert (first.reused_tokens, again.reused_tokens) == (0, 9)


@pytest.mark.parametrize("length", [1, 20, 150])
def test_a_repetition_penalty_is_what_transformers_would_do_at_each_step(tiny: Tiny, length: int) -> None:
    import transformers

    processor = transformers.RepetitionPenaltyLogitsProcessor(1.5)
    ids = prompt(length)
    answer = Generator(*tiny, Sampling(repetition_penalty=1.5), max_context=256).generate(ids, 100)
    written = ids + answer.token_ids
    full = torch.from_numpy(logits(tiny[0], written)[length - 1 : -1].copy())
    for step, token in enumerate(answer.token_ids):  # the first one follows the prompt's tokens alone
        scores = processor(torch.tensor([written[: length + step]]), full[step : step + 1])
        assert scores.argmax().item() == token, step


def interrupt(generator: Generator, ids: list[int], after: int) -> None:
    """Ends a text when so many pieces of it were written."""
    written: list[str] = []

    def stop(piece: str) -> None:
        written.append(piece)
        if len(written) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate(ids, 40, stop)


def test_text_with_all_penalties_repeats_after_an_interrupt_and_in_a_turn(tiny: Tiny) -> None:
    sampling = Sampling(
        repetition_penalty=1.2, frequency_penalty=0.8, presence_penalty=0.3, logit_bias={prompt(1)[0]: 3.0}
    )
    generator = Generator(*tiny, sampling, max_context=256)
    for ids in (prompt(30), [*prompt(30), *prompt(5, 1)]):
        expected = Generator(*tiny, sampling, max_context=256).generate(ids, 40).token_ids
        for after in (1, 2, 3, 20):
            interrupt(generator, ids, after)
            assert generator.generate(ids, 40).token_ids == expected


def test_a_generator_refuses_the_bias_of_no_token(tiny: Tiny) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"logit_bias has token {len(TOKENS)}, outside"):
        Generator(*tiny, Sampling(logit_bias={len(TOKENS): 1.0}))


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_max_tokens_is_the_number_of_tokens(tiny: Tiny, most: int) -> None:
    answer = Generator(*tiny, max_context=128).generate(prompt(5), most)
    assert len(answer.token_ids) == most
    assert answer.decode_steps == most - 1


@pytest.mark.parametrize("name", ["eos", "eot", "eom"])  # of a text, of a turn, of a message to a tool
def test_each_of_the_files_end_tokens_ends_the_text_and_is_no_part_of_it(
    tiny: Tiny, tiny_path: Path, name: str
) -> None:
    model, tokenizer = tiny
    free = Generator(model, tokenizer, max_context=128).generate(prompt(5), 20).token_ids
    at = next(i for i in range(3, 20) if free[i] not in free[:i])
    file = models.ModelFile(tiny_path)
    file.metadata[f"tokenizer.ggml.{name}_token_id"] = free[at]
    answer = Generator(model, models.Tokenizer.from_file(file), max_context=128).generate(prompt(5), 20)
    assert answer.token_ids == free[:at]
    assert answer.text == tokenizer.decode(free[:at])


_SLOW_COMPILER = """
import sys, time
import unify._kernel as kernel
from unify import models

compile, compiled = kernel.compile, []
clock = time.perf_counter
time.perf_counter = lambda: clock() + 1000.0 * len(compiled)

def slowly(*arguments):
    compiled.append(arguments)
    return compile(*arguments)

kernel.compile = slowly
model, tokenizer = models.load(sys.argv[1])
generator = models.Generator(model, tokenizer, max_context=128)
ids = tokenizer.encode("the answer")
first = generator.generate(ids, 4)
assert len(compiled) > 5
print(first.prefill_s + first.decode_s, first.prefill_tokens, first.decode_steps)

ids += [*first.token_ids, *tokenizer.encode(" and another")]
fresh = models.Generator(model, tokenizer, max_context=128).generate(ids, 4)
assert generator.generate(ids, 4).token_ids == fresh.token_ids
"""


def test_times_leave_out_what_compiles_and_loads_kernels(python: Run, tiny_path: Path) -> None:
    finished = python("-c", _SLOW_COMPILER, str(tiny_path))
    assert finished.returncode == 0, finished.stderr
    seconds, prompt_tokens, steps = finished.stdout.split()
    assert float(seconds) < 1000.0  # less than the first of them
    assert (int(prompt_tokens), int(steps)) == (6, 3)


def test_the_context_can_be_filled_to_the_last_token_and_no_further(tiny: Tiny) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=f"max_context=100000 is more than the {CONTEXT} tokens"):
        Generator(*tiny, max_context=100_000)
    generator = Generator(*tiny)
    assert len(generator.generate(prompt(CONTEXT - 1), 1).token_ids) == 1
    with pytest.raises(
        un.errors.InvalidArgument, match=rf"{CONTEXT} prompt tokens and max_tokens=1 .* a context of {CONTEXT}"
    ):
        generator.generate(prompt(CONTEXT), 1)
    ids = prompt(CONTEXT - 40)
    answer = generator.generate(ids, 40)
    assert answer.token_ids == logits(tiny[0], ids + answer.token_ids)[len(ids) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([], "no tokens"), ([-1], "token -1"), ([len(TOKENS)], f"token {len(TOKENS)}"),
        ([5, 6.5], "a whole number; it is 6.5"),
    ],
)  # fmt: skip
def test_a_prompt_that_is_none_is_refused(tiny: Tiny, ids: list[int], told: str) -> None:
    with pytest.raises(un.errors.InvalidArgument, match=told):
        Generator(*tiny, max_context=64).generate(ids, 1)


def test_pieces_make_up_the_text_and_break_no_character(tiny: Tiny) -> None:
    model, tokenizer = tiny
    pieces: list[str] = []
    answer = Generator(model, tokenizer, Sampling(temperature=2.0, seed=5), max_context=CONTEXT).generate(
        prompt(5), 300, pieces.append
    )
    assert "".join(pieces) == answer.text == tokenizer.decode(answer.token_ids)
    assert len(pieces) > 100
    assert all(pieces)


def test_an_interrupt_in_the_consumer_leaves_a_usable_generator(tiny: Tiny) -> None:
    generator = Generator(*tiny, max_context=256)
    ids = prompt(30)
    expected = Generator(*tiny, max_context=256).generate(ids, 40).token_ids
    for after in (1, 2, 3, 4, 20):  # before, while and after the step is recorded
        interrupt(generator, ids, after)
        assert generator.generate(ids, 40).token_ids == expected


def test_the_next_turn_reuses_what_it_shares_and_writes_what_a_fresh_one_writes(tiny: Tiny) -> None:
    generator = Generator(*tiny, max_context=CONTEXT)
    ids = prompt(70)
    first = generator.generate(ids, 10)
    for following in ([*ids, *first.token_ids, *prompt(9, 1)], ids[:65], [*ids[:40], *prompt(50, 2)], prompt(3, 3)):
        answer = generator.generate(following, 10)
        assert answer.token_ids == Generator(*tiny, max_context=CONTEXT).generate(following, 10).token_ids
    assert first.reused_tokens == 0
