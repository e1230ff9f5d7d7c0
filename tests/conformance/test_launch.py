"""The suite's cases on every backend here: unify/testing/conformance/test_launch.py."""

from unify.testing.conformance.test_launch import *
