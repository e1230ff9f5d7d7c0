"""What chips can do at most by their makers' word, for those that are not at hand."""

from __future__ import annotations

from dataclasses import dataclass

from unify._errors import TargetError

from .roofline import Roofline


@dataclass(frozen=True)
class Limits:
    """Dense operations a second by dtype, bytes a second of memory, and who says so.

    A dtype that is absent is not multiplied faster than the next wider one that is there.
    """

    name: str
    flops: dict[str, float]
    bytes: float
    source: str

    def peak(self, dtype: str) -> float:
        """Operations a second for "fp32", "bf16", "int8" or "fp8"."""
        for name in (dtype, "bf16", "fp32"):
            if name in self.flops:
                return self.flops[name]
        raise TargetError(f"{self.name} has no known peak for {dtype}.")


_HOPPER = {"fp32": 66.9e12, "bf16": 989.4e12, "int8": 1978.9e12, "fp8": 1978.9e12}
_GPU = "Nvidia's H100 Tensor Core GPU Architecture, table 2; without sparsity"
_CHIPS = {
    "cuda:80": Limits(
        "A100 80 GB SXM", {"fp32": 19.5e12, "bf16": 312e12, "int8": 624e12}, 2.039e12, "Nvidia's A100 datasheet"
    ),
    "cuda:90": Limits("H100 SXM5", _HOPPER, 3.35e12, _GPU),
    "ascend:910C": Limits(
        "Ascend 910C, one of two dies", {"bf16": 376e12, "int8": 752e12}, 1.6e12,
        "Serving Large Language Models on Huawei CloudMatrix384 (arXiv 2506.12708), section 3",
    ),
}  # fmt: skip


def known() -> tuple[str, ...]:
    """The targets that `of_target` takes."""
    return tuple(_CHIPS)


def of_target(target: str) -> Limits:
    """Raises TargetError for a chip whose maker's figures are not known here."""
    if target not in _CHIPS:
        raise TargetError(
            f"no figures of the maker are known for '{target}': {', '.join(_CHIPS)} have some; cpu is measured.",
            is_unknown=True,
        )
    return _CHIPS[target]


def of_machine(measured: Roofline) -> Limits:
    """This machine's, as they were measured."""
    peaks = {"fp32": measured.fp32_gflops, "bf16": measured.bf16_gflops, "int8": measured.int8_gops}
    flops = {name: peak * 1e9 for name, peak in peaks.items() if peak is not None}
    return Limits(
        f"{measured.processor}, {measured.threads} thread(s)", flops, measured.read_gb_s * 1e9, "measured now"
    )
