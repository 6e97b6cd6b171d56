"""Run the command line as ``python -m meshflow``."""

import sys

from meshflow.cli.entry import main

sys.exit(main())
