"""Benchmarks: unify against a peer, paired, with the spread. `unify bench --list` shows the cases."""

from .case import Case, Setup, Side, Unit
from .compare import Comparison, compare_case
from .peers import PEERS, Peer, find_peer
from .roofline import Roofline
from .timing import Pair, Ratio, alternate, ratio_of

__all__ = [
    "PEERS",
    "Case",
    "Comparison",
    "Pair",
    "Peer",
    "Ratio",
    "Roofline",
    "Setup",
    "Side",
    "Unit",
    "alternate",
    "compare_case",
    "find_peer",
    "ratio_of",
]
