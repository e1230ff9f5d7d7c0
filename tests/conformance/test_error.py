"""The suite's cases on every backend here: unify/testing/conformance/test_error.py."""

from unify.testing.conformance.test_error import *
