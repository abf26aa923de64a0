"""The two scripts as modules, for programs that put something else into them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
import consumer
import producer

__all__ = ["consumer", "producer"]
