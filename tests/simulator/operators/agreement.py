"""What programs that compare `npu` with the CPU share: they print {name: what differs} of what does not agree."""

import json
from collections.abc import Callable, Sequence

import torch

differs: dict[str, str] = {}


def same(name: str, found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5, atol: float | None = None) -> None:
    try:
        atol = rtol / 10 if atol is None else atol
        torch.testing.assert_close(found.detach().cpu(), expected.detach(), rtol=rtol, atol=atol, equal_nan=True)
    except Exception as error:
        differs[name] = f"{type(error).__name__}: {error}"[:600]


def report(parts: Sequence[Callable[[], None]]) -> None:
    torch.manual_seed(0)
    for part in parts:
        try:
            part()
        except Exception as error:
            differs[part.__name__] = f"{type(error).__name__}: {error}"[:600]
    print(json.dumps(differs))


def int8(*sizes: int) -> torch.Tensor:
    return torch.randint(-128, 128, sizes, dtype=torch.int8)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Of integers, exactly."""
    return (x.double() @ weight.double()).float()


def by_row(x: torch.Tensor, largest: float = 127) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as int8 with its scale, as aclnnDynamicQuant's documentation says."""
    scale = x.abs().amax(-1, keepdim=True) / largest
    return (x / scale).round().to(torch.int8), scale.squeeze(-1)
