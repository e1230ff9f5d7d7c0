"""The suite's cases on every backend here: unify/testing/conformance/test_plugin_abi.py."""

from unify.testing.conformance.test_plugin_abi import *
