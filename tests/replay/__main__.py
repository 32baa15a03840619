"""`python -m tests.replay VARIANT...` runs variants and prints what each survived and what was repeated."""

from __future__ import annotations

import sys

from tests.replay.table import main

sys.exit(main(sys.argv[1:]))
