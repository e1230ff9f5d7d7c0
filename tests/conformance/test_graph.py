"""The suite's cases on every backend here: unify/testing/conformance/test_graph.py."""

from unify.testing.conformance.test_graph import *
