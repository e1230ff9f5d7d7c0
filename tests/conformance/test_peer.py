"""The suite's cases on every backend here: unify/testing/conformance/test_peer.py."""

from unify.testing.conformance.test_peer import *
