"""The figures of the README's analysis: python -m experiments.measure."""

import os
from pathlib import Path

# Where matplotlib keeps its list of fonts, or it would write into the home folder.
os.environ.setdefault("MPLCONFIGDIR", str(Path(__file__).parents[2] / ".venv" / "matplotlib"))
