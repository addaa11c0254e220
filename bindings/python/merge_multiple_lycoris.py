"""`lycomerge.older.basic` as a script; over the lycomerge package that is installed, or else the one beside it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "src"))

from lycomerge.older import basic  # noqa: E402

sys.exit(basic())
