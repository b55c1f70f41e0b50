"""`python -m benchmarks.gpu`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))  # a checkout need not be installed

from benchmarks.gpu.command import main

sys.exit(main())
