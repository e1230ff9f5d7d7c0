"""The suite's cases on every backend here: unify/testing/conformance/test_memory.py."""

from unify.testing.conformance.test_memory import *
