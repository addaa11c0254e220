"""How people see how far a run is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: Hears the stage, and how many modules of how many are through it. What it raises stops the merge and comes out of it.
Listener = Callable[[str, int, int], object]

#: A listener, or True for a progress bar on stderr: tqdm's if it is installed, else a line for each stage.
Progress = Listener | bool | None


class _Bars:
    """A tqdm bar for each stage."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._stage: str | None = None
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._bar = stage, self._tqdm(total=total, desc=stage, unit=" modules")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """A line for each stage."""

    def __init__(self) -> None:
        self._stage: str | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            print(f"{stage} {total} modules", file=sys.stderr)


@contextmanager
def listener(progress: Progress) -> Iterator[Listener | None]:
    """What hears of the progress while the context lasts."""
    if progress is not True:
        yield progress or None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield _Lines()
        return
    bars = _Bars(tqdm)
    try:
        yield bars
    finally:
        bars.close()
