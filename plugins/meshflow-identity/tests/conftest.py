"""What test modules of this folder share can be imported; they are not a package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
