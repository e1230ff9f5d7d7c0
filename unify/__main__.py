"""`python -m unify` is `unify`."""

import sys

from unify.cli import main

sys.exit(main())
