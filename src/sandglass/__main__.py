"""`python -m sandglass`: the command line of the interpreter at hand, wherever its scripts are."""

from __future__ import annotations

import sys

from sandglass.cli.main import main

sys.exit(main())
