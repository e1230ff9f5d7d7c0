"""The suite's cases on every backend here: unify/testing/conformance/test_leaks.py."""

from unify.testing.conformance.test_leaks import *
