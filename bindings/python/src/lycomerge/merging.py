"""Merges, their forecasts and their reports."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import _abi
from ._library import call, leave_if_exiting, library, raised, text
from .adapter import Adapter
from .errors import OptionError
from .progress import Progress, listener


@dataclass(frozen=True)
class Forecast:
    """What a merge will come to: the sizes of output and inputs in bytes and the error of the whole file. `huge` where
    the output is over 1 GiB and over ten times the inputs: better ask before running."""

    byte_len: int
    input_byte_len: int
    relative_error: float
    huge: bool


class Report:
    """What a merge says about its result."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()

    def __del__(self) -> None:
        library.lyco_report_free(self._handle)

    def __repr__(self) -> str:
        return f"<lycomerge.Report: stored to within {self.relative_error:.1e}>"

    @property
    def relative_error(self) -> float:
        """|stored - true| / |true| over the whole file."""
        return float(library.lyco_report_relative_error(self._handle))

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything: the recipe, the size, each layer's family, shape, rank and error, and the warnings."""
        found: dict[str, Any] = json.loads(str(text(library.lyco_report_json(self._handle))))
        return found


class Merge:
    """Adapters with weights, and how to merge them. `options()` lists the options, with `_` or `-` in their names."""

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

    def forecast(self, progress: Progress = None) -> Forecast:
        """Says size and error before the heavy work, from a sample of the layers."""
        found = _abi.lyco_forecast(ctypes.sizeof(_abi.lyco_forecast))
        _watched(progress, library.lyco_merge_forecast, self._handle, outputs=[found])
        return Forecast(found.byte_len, found.input_byte_len, found.relative_error, bool(found.huge))

    def run(self, progress: Progress = None) -> tuple[Adapter, Report]:
        """Merges into memory."""
        merged, report = Adapter(), Report()
        _watched(progress, library.lyco_merge_run, self._handle, outputs=[merged._handle, report._handle])
        return merged, report

    def run_to(self, path: str | os.PathLike[str], progress: Progress = None) -> Report:
        """Merges into a file, which appears under its name only when it is whole."""
        report = Report()
        name = os.fspath(path).encode()
        _watched(progress, library.lyco_merge_run_to, self._handle, name, outputs=[report._handle])
        return report


def _watched(progress: Progress, run: Any, *inputs: Any, outputs: Sequence[Any]) -> None:
    """Runs with a callback, even if nobody listens: Ctrl-C and the interpreter's end are heard in it."""
    with listener(progress) as heard:

        def hear(_user: Any, stage: bytes, done: int, total: int) -> int:
            try:
                leave_if_exiting()
                if heard is not None:
                    heard(stage.decode(), done, total)
            except BaseException as error:
                raised.errors.append(error)
            return len(raised.errors)

        call(run, *inputs, _abi.lyco_progress_callback(hear), None, *map(ctypes.byref, outputs))


def merge(
    paths: Sequence[Adapter | str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
    progress: Progress = None,
    **options: object,
) -> Report:
    """Merges adapters into the file `output`. `weights` are 1 each unless given; `options()` lists the options, such as
    `strategy="smart_fusion"` or `max_size="150MB"`. `progress=True` shows a progress bar."""
    if weights is None:
        weights = [1.0] * len(paths)
    if len(weights) != len(paths):
        raise OptionError(f"Number of weights ({len(weights)}) must match number of models ({len(paths)})")
    merging = Merge(**options)
    for path, weight in zip(paths, weights, strict=True):
        merging.add(path, weight)
    return merging.run_to(output, progress)
