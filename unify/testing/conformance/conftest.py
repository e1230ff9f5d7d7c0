"""Makes the suite's fixtures known to pytest when it runs from the installed package."""

from unify.testing.conformance.fixtures import *
