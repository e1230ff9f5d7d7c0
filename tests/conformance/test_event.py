"""The suite's cases on every backend here: unify/testing/conformance/test_event.py."""

from unify.testing.conformance.test_event import *
