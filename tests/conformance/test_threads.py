"""The suite's cases on every backend here: unify/testing/conformance/test_threads.py."""

from unify.testing.conformance.test_threads import *
