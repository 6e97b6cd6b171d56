"""Run the command line as ``python -m meshflow.cli``."""

import sys

from meshflow.cli.entry import main

sys.exit(main())
