"""Merges and their reports."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _abi
from ._library import call, library, text
from .adapter import Adapter
from .errors import Cancelled, OptionError

#: Hears the stage, and how many modules of how many are through it. What it raises stops the merge and comes out of it.
Progress = Callable[[str, int, int], object]


class Report:
    """What a merge says about its result."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        try:
            self.relative_error: float = library.lyco_report_relative_error(handle)
            #: Everything: the recipe, the size, each layer's family, shape, rank and error, and the warnings.
            self.data: dict[str, Any] = json.loads(text(library.lyco_report_json(handle)) or "{}")
        finally:
            library.lyco_report_free(handle)

    def __repr__(self) -> str:
        return f"<lycomerge.Report: stored to within {self.relative_error:.1e}>"


class Merge:
    """Adapters with weights, and how to merge them. Options are those of `lycomerge merge --help`."""

    def __init__(self, **options: object) -> None:
        self._handle = ctypes.c_void_p(library.lyco_merge_new())
        for key, value in options.items():
            self.set(key, value)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            library.lyco_merge_free(handle)

    def add(self, adapter: Adapter | str | os.PathLike[str], weight: float = 1.0) -> Merge:
        """Adds an input."""
        opened = adapter if isinstance(adapter, Adapter) else Adapter.open(adapter)
        call(library.lyco_merge_add, self._handle, opened._handle, float(weight))
        return self

    def set(self, key: str, value: object) -> Merge:
        """Sets an option, such as `max_size` to `"150MB"`; None leaves it as it is."""
        if value is not None:
            spelled = str(value).lower() if isinstance(value, bool) else str(value)
            call(library.lyco_merge_set, self._handle, key.encode(), spelled.encode())
        return self

    def run(self, progress: Progress | None = None) -> tuple[Adapter, Report]:
        """Merges into memory."""
        result, report = ctypes.c_void_p(), ctypes.c_void_p()
        _watched(progress, library.lyco_merge_run, self._handle, outputs=(result, report))
        return Adapter(result), Report(report)

    def run_to(self, path: str | os.PathLike[str], progress: Progress | None = None) -> Report:
        """Merges into a file, which appears under its name only when it is whole."""
        report = ctypes.c_void_p()
        _watched(
            progress, library.lyco_merge_run_to, self._handle, os.fspath(path).encode(), outputs=(report,)
        )
        return Report(report)


def _watched(progress: Progress | None, run: Any, *inputs: Any, outputs: Iterable[ctypes.c_void_p]) -> None:
    """Runs with a callback, even if nobody listens: Ctrl-C is heard in it."""
    raised: list[BaseException] = []

    def hear(_user: Any, stage: bytes, done: int, total: int) -> int:
        try:
            if progress is not None:
                progress(stage.decode(), done, total)
        except BaseException as error:  # No exception may leave a callback; it is raised below.
            raised.append(error)
        return len(raised)

    callback = _abi.lyco_progress_callback(hear)
    try:
        call(run, *inputs, callback, None, *map(ctypes.byref, outputs))
    except Cancelled:
        if not raised:
            raise
    if raised:
        raise raised[0]


def merge(
    paths: Sequence[Adapter | str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Report:
    """Merges adapters into the file `output`. `weights` are 1 each unless given; `options` are those of
    `lycomerge merge --help`, such as `strategy="smart_fusion"` or `max_size="150MB"`."""
    if weights is None:
        weights = [1.0] * len(paths)
    if len(weights) != len(paths):
        raise OptionError(f"Number of weights ({len(weights)}) must match number of models ({len(paths)})")
    merging = Merge(**options)
    for path, weight in zip(paths, weights, strict=True):
        merging.add(path, weight)
    return merging.run_to(output, progress)
