"""The suite's cases on every backend here: unify/testing/conformance/test_sharing.py."""

from unify.testing.conformance.test_sharing import *
