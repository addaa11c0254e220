"""`lycomerge.older.basic` as a script; needs the lycomerge package, and finds the one beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from lycomerge.older import basic  # noqa: E402

sys.exit(basic())
