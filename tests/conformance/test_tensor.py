"""The suite's cases on every backend here: unify/testing/conformance/test_tensor.py."""

from unify.testing.conformance.test_tensor import *
