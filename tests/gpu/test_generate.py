"""`unify generate` writes the same greedy text on the GPU as on the CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import unify as un

from ..conftest import Run

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    for name, use in {"gguf": "reads models", "tokenizers": "cuts text", "llvmlite": "compiles for the CPU"}.items():
        pytest.importorskip(name, reason=f"{name} is not installed, which {use}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that MODEL= names, else a tiny one of random weights."""
    if given := os.environ.get("UNIFY_GPU_MODEL"):
        return Path(given).resolve(strict=True)
    from ..models.conftest import write_model

    return write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_greedy_text_is_the_same_on_the_gpu_and_on_the_cpu(gpu: un.Device, model: Path, python: Run) -> None:
    def text(device: str) -> str:
        options = ["--model", str(model), "--prompt", "The capital of France", "--greedy", "--max-tokens", "24"]
        finished = python("-m", "unify", "generate", *options, "--device", device, "--json", timeout=1800)
        assert finished.returncode == 0, finished.stderr
        return str(json.loads(finished.stdout)["text"])

    assert text(gpu.name) == text("cpu")
