"""The suite's cases on every backend here: unify/testing/conformance/test_module.py."""

from unify.testing.conformance.test_module import *
