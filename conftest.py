"""Find the tools from the tests, and let nbval compare pictures (tools/nbval_pictures.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

pytest_plugins = ("nbval_pictures",)
