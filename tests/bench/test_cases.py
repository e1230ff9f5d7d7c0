"""The table of cases, and how a word finds its cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unify._errors import InvalidArgument
from unify.bench import PEERS, Roofline
from unify.bench.cases import CASES, SUITES, find_cases, latent, load_cases, serving

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIMITS = Roofline(1, "made up", fp32_gflops=100, bf16_gflops=200, int8_gops=400, read_gb_s=10, copy_gb_s=10, call_us=1)


def names(*words: str) -> list[str]:
    return [case.name for case in find_cases(words)]


@pytest.mark.parametrize(
    "name",
    ["launch", "import", "gemm-fp32-512", "gemm-bf16-2048", "gemm-int8-512", "generate-decode", "varlen-fp32-smollm2",
     "paged-decode-bf16-16", "paged-prefill-fp32-64", "mla-bf16-16-4096", "moe-bf16-2048", "moe-route-256",
     "weights-int4"],
)  # fmt: skip
def test_what_the_project_promises_has_a_case(name: str) -> None:
    assert name in CASES


def test_each_case_has_peers_that_exist_and_a_name_of_its_own() -> None:
    for case in CASES.values():
        assert case.peers.keys() <= PEERS.keys()
        assert case.peers


def test_a_name_finds_one_case_and_a_subject_all_of_its_own() -> None:
    assert names("gemm-bf16-512") == ["gemm-bf16-512"]
    assert names("gemm") == [f"gemm-{dtype}-{size}" for dtype in ("fp32", "bf16") for size in (512, 1024, 2048)]


@pytest.mark.parametrize("word", ["decode", "generate_decode", "Generate Decode"])
def test_aliases_case_and_separators_do_not_matter(word: str) -> None:
    assert names(word) == ["generate-decode"]


def test_words_add_up_and_repeat_nothing() -> None:
    assert names("launch", "import", "launch") == ["launch", "import"]
    assert names() == list(CASES)


def test_a_suite_finds_what_each_of_its_words_does() -> None:
    found = [case for word in SUITES["cpu"] for case in names(word)]
    assert names("cpu") == found == list(dict.fromkeys(found))
    assert all("torch" in CASES[name].peers and CASES[name].tolerance is not None for name in found)


@pytest.mark.parametrize(
    "name",
    ["gemm-fp32-2048", "gemm-tutorial-bf16-1024", "gemm-int8-2048", "flash-causal-fp32-64-512",
     "flash-full-bf16-128-4096", "flash-decode-fp32-4096", "flash-decode-bf16-32768", "experts-bf16",
     "softmax-16mb", "layer_norm-256mb", "rms_norm-256mb", "add-256mb", "sum-16mb", "row_sum-256mb"],
)  # fmt: skip
def test_the_question_how_fast_the_cpu_target_is_covers(name: str) -> None:
    assert name in names("cpu")


def test_an_unknown_word_suggests_what_exists() -> None:
    with pytest.raises(InvalidArgument, match=r"no case 'gem'\. Did you mean 'gemm'.*--list"):
        find_cases(["gem"])


def test_a_file_of_cases_is_a_word_too(case_file: Path) -> None:
    assert names(str(case_file))[:2] == ["twice", "rate"]
    assert {case.file for case in load_cases(str(case_file))} == {str(case_file)}


def test_a_file_without_cases_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InvalidArgument, match=r"has no function cases\(\)"):
        find_cases([str(tmp_path / "empty.py")])
    with pytest.raises(InvalidArgument, match="there is no file"):
        find_cases([str(tmp_path / "absent.py")])


def test_the_limit_is_whichever_of_arithmetic_and_memory_takes_longer() -> None:
    gemm = CASES["gemm-fp32-512"]
    assert gemm.limit(LIMITS) == pytest.approx(2 * 512**3 / 100e9)
    norm = CASES["rms_norm-4096x4096"]
    assert norm.limit(LIMITS) == pytest.approx(norm.bytes / 10e9)
    assert CASES["rms_norm-512x576"].limit(LIMITS) is None  # it stays in the caches
    assert CASES["launch"].limit(LIMITS) is None
    assert CASES["gemm-int8-512"].limit(LIMITS) == pytest.approx(2 * 512**3 / 400e9)
    assert CASES["add-256mb"].limit(LIMITS) == pytest.approx(3 * 2**28 / 10e9)


def test_what_a_mask_hides_is_no_work() -> None:
    causal, full = CASES["flash-causal-fp32-64-512"], CASES["flash-full-fp32-64-512"]
    assert full.flops == 4 * 8 * 64 * 512**2
    assert causal.flops / full.flops == pytest.approx(513 / 1024)


def test_what_attention_of_many_sequences_costs_is_what_its_masks_and_caches_have() -> None:
    prefill = sum(int(np.tri(new, new + cached, cached).sum()) for new, cached in serving.CHUNKS)
    assert CASES["paged-prefill-fp32-16"].flops == 2 * 2 * 32 * 128 * prefill
    packed = sum(int(np.tri(tokens).sum()) for tokens in serving.PROMPTS)
    assert CASES["varlen-bf16-128"].flops == 2 * 2 * 8 * 128 * packed
    assert CASES["paged-decode-bf16-64"].bytes == 2 * 2 * 8 * 128 * sum(serving.CONTEXTS)
    absorbing = 2 * 16 * latent.HEADS * 512 * (128 + 128)
    rows = 2 * 16 * latent.HEADS * 4096 * (512 + 64 + 512)
    assert CASES["mla-bf16-16-4096"].flops == absorbing + rows


def test_experts_and_weights_cost_what_is_read_of_them() -> None:
    one = 3 * 2048 * 1024
    assert CASES["moe-bf16-1"].work == pytest.approx(2 * 8 * one, rel=1e-3)
    assert CASES["moe-fp32-16"].work == pytest.approx(4 * 56 * one, rel=1e-3)  # of 64, 8 for each of 16 at random
    assert CASES["moe-fp32-256"].work == 2 * 256 * 8 * one
    for kind, bits in (("bf16", 16), ("int8", 8.5), ("int4", 4.5), ("fp8", 8 + 32 / 128**2)):
        assert CASES[f"weights-{kind}"].bytes == pytest.approx(8 * 4096**2 * bits / 8, rel=2e-3)
    assert CASES["head-q8_0-1"].work == 49152 * 576 // 32 * 34
    assert CASES["experts-fp32"].bytes == 4 * (512 * (1024 + 512) + 8 * 1024 * 512)
    assert CASES["gemm-int8-512"].bytes == 512**2 * (1 + 1 + 4)


def test_listing_the_cases_loads_no_peer_and_no_compiler() -> None:
    code = (
        "import sys, unify.bench.cases; "
        "print([m for m in ('torch', 'triton', 'llvmlite', 'llama_cpp', 'numpy', 'unify._core') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Those of gpu.py are run by it: test_gpu.py.
@pytest.mark.parametrize(
    "file",
    sorted(file for file in BENCHMARKS.glob("*.py") if not file.name.startswith(("gpu", "npu"))),  # programs themselves
    ids=lambda file: file.stem,
)
def test_each_question_of_the_repository_loads(file: Path) -> None:
    assert file.stem in (BENCHMARKS / "README.md").read_text()
    assert all(case.peers.keys() <= PEERS.keys() for case in load_cases(str(file)))
