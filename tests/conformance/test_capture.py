"""The suite's cases on every backend here: unify/testing/conformance/test_capture.py."""

from unify.testing.conformance.test_capture import *
