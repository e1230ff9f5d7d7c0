"""The suite's cases on every backend here: unify/testing/conformance/test_copy.py."""

from unify.testing.conformance.test_copy import *
