"""The suite's cases on every backend here: unify/testing/conformance/test_process.py."""

from unify.testing.conformance.test_process import *
