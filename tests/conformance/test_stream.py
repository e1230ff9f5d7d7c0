"""The suite's cases on every backend here: unify/testing/conformance/test_stream.py."""

from unify.testing.conformance.test_stream import *
