"""What unify is measured against, and what to install where one is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches

from unify._errors import InvalidArgument, UnsupportedError


@dataclass(frozen=True)
class Peer:
    """A program or library to compare with. module: what has to be importable; distribution: what provides it."""

    name: str
    module: str
    distribution: str
    about: str

    @property
    def is_installed(self) -> bool:
        """Whether its module can be found; it is not imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """The installed version."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torch", "torch", "torch", "PyTorch on the CPU: oneDNN, MKL and its own kernels"),
        Peer("llama.cpp", "llama_cpp", "llama-cpp-python", "llama.cpp and ggml through llama-cpp-python, built here"),
        Peer("numpy", "numpy", "numpy", "NumPy"),
        Peer("unify", "unify", "unify-runtime", "unify itself, doing the same in the plain way"),
        Peer("triton", "triton", "triton", "Triton's own launcher over a driver that does nothing"),
    )
}


def find_peer(name: str) -> Peer:
    """Returns a peer that is installed.

    Raises InvalidArgument for an unknown name, UnsupportedError for a peer that is missing, with what to install.
    """
    peer = PEERS.get(name)
    if peer is None:
        close = get_close_matches(name, PEERS, n=1, cutoff=0.4)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidArgument(f"bench: no peer {name!r}.{suggestion} Known: {', '.join(PEERS)}.")
    if not peer.is_installed:
        raise UnsupportedError(
            f"bench: peer {name} is not installed (no module {peer.module!r}). "
            "Install it with `make bench`, or with `pip install -r benchmarks/requirements.txt`."
        )
    return peer
