"""Peers: known ones, missing ones, unknown ones."""

from __future__ import annotations

import dataclasses

import pytest

from unify._errors import InvalidArgument, UnsupportedError
from unify.bench import PEERS, find_peer, peers as table


def test_an_installed_peer_tells_its_version() -> None:
    import numpy

    assert find_peer("numpy").version == numpy.__version__


def test_a_missing_peer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(PEERS["llama.cpp"], module="no_such_module_here")
    monkeypatch.setitem(table.PEERS, "llama.cpp", missing)
    with pytest.raises(UnsupportedError, match=r"llama.cpp is not installed.*make bench.*benchmarks/requirements.txt"):
        find_peer("llama.cpp")


def test_an_unknown_peer_suggests_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match=r"no peer 'llama'. Did you mean 'llama.cpp'\? Known: torch"):
        find_peer("llama")
