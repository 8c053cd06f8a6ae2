"""`python -m sandglass`: the command line, run with this interpreter even if the script `sandglass` is not on PATH."""

from __future__ import annotations

import sys

from sandglass.cli.main import main

sys.exit(main())
