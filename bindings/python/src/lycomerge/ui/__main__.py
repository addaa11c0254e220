"""`python -m lycomerge.ui`: the page, for the adapters of a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lycomerge ui", description="Opens the page on which adapters are chosen, weighed, compared and merged."
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where the adapters are, and results go (default: here)"
    )
    parser.add_argument("--port", type=int, default=7866, help="on this machine only (default: %(default)s; 0: any)")
    parser.add_argument("--no-browser", action="store_true", help="only say where the page is")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page; the exit code."""
    given = _parser().parse_args(arguments)
    folder = given.folder.absolute()
    if not folder.is_dir():
        print(f"Error: there is no folder {folder}", file=sys.stderr)
        return 1
    try:
        from .serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "uvicorn", "fastapi"):
            raise
        print("Error: the page needs gradio; install it: pip install 'lycomerge[ui]'", file=sys.stderr)
        return 1
    try:
        serve(folder, given.port, not given.no_browser)
    except (OSError, OverflowError) as error:
        print(f"Error: can't serve on port {given.port}: {error}; choose another by --port", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
