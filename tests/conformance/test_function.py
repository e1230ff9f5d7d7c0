"""The suite's cases on every backend here: unify/testing/conformance/test_function.py."""

from unify.testing.conformance.test_function import *
