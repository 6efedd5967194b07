"""``python -m fastadam``: the command line."""

import sys

from fastadam.cli import main

sys.exit(main())
