"""The suite's cases on every backend here: unify/testing/conformance/test_device.py."""

from unify.testing.conformance.test_device import *
