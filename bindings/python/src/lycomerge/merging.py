"""Merges, their forecasts and their reports."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import _abi
from ._library import call, leave_if_exiting, library, raised, text
from .adapter import DTYPES, Adapter, Layer, Tensor, layer_of, param_name
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

    @property
    def layers(self) -> list[LayerReport]:
        """The layers, in the order of their names."""
        return [self._layer(index) for index in range(library.lyco_report_layer_count(self._handle))]

    def _layer(self, index: int) -> LayerReport:
        found = _abi.lyco_layer_report(ctypes.sizeof(_abi.lyco_layer_report))
        call(library.lyco_report_layer, self._handle, index, ctypes.byref(found))
        return LayerReport(
            found.name.decode(), found.family.decode(), param_name(found.param), found.rank, found.norm,
            found.relative_error, found.direction_error,
        )  # fmt: skip

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything: the recipe, the size, each layer's family, shape, rank and error, and the warnings."""
        found: dict[str, Any] = json.loads(str(text(library.lyco_report_json(self._handle))))
        return found


@dataclass(frozen=True)
class LayerReport:
    """How one layer was stored: `norm` is |true|, `relative_error` is |stored - true| / |true|, and `direction_error`
    the part of it that no scaling could mend."""

    name: str
    family: str
    param: str
    rank: int
    norm: float
    relative_error: float
    direction_error: float


class _Figures:
    """What is said of a merge before it is run, with pictures of it."""

    _json: Any
    _draw: Any
    _free: Any

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()

    def __del__(self) -> None:
        self._free(self._handle)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything; numbers, and sentences for people."""
        found: dict[str, Any] = json.loads(str(text(self._json(self._handle))))
        return found

    def picture(self, kind: str = "svg", dark: bool = False) -> bytes:
        """A picture of it: `"svg"`, `"png"`, or `"html"` for a whole report that is light or dark as its reader's system
        is."""
        data, byte_len = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_uint64()
        call(self._draw, self._handle, kind.encode(), int(dark), ctypes.byref(data), ctypes.byref(byte_len))
        return ctypes.string_at(data, byte_len.value)


class Plan(_Figures):
    """What a merge comes to in every format. `data` has `inputs`, the `norm` of the merge, the three `qualities` and
    `curves`, whose `points` have `options`, `rank`, `bytes` and `error`; of its `layers`, as many as `sampled` were looked
    at."""

    _json = library.lyco_plan_json
    _draw = library.lyco_plan_picture
    _free = library.lyco_plan_free


class Comparison(_Figures):
    """How adapters compare, at their weights. `data` has `inputs`, the tables `cosines`, `overlaps` and `sign_conflicts`,
    what a plain sum has `kept`, the same by `blocks` and `layers`, and `advice`."""

    _json = library.lyco_comparison_json
    _draw = library.lyco_comparison_picture
    _free = library.lyco_comparison_free


#: Hears of a merged delta: the layer, and its entries in the parameter's own shape. What it raises stops the merge and
#: comes out of it.
TakeDelta = Callable[[Layer, Tensor], object]


class Merge:
    """Adapters with weights, and how to merge them. `options()` lists the options, with `_` or `-` in their names."""

    def __init__(self, **options: object) -> None:
        self._handle = ctypes.c_void_p(library.lyco_merge_new())
        self._inputs = 0
        for key, value in options.items():
            self.set(key, value)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            library.lyco_merge_free(handle)

    def add(
        self, adapter: Adapter | str | os.PathLike[str], weight: float = 1.0, block_weights: str | None = None
    ) -> Merge:
        """Adds an input. `block_weights` says how strongly it acts in every part of the model: terms such as
        `"IN04-IN08=0.5 te=0"`, or a list of values; `lycomerge merge --help` has the whole grammar."""
        opened = adapter if isinstance(adapter, Adapter) else Adapter.open(adapter)
        call(library.lyco_merge_add, self._handle, opened._handle, float(weight))
        self._inputs += 1
        if block_weights is not None:
            self.set_block_weights(self._inputs - 1, block_weights)
        return self

    def set_block_weights(self, index: int, block_weights: str | None) -> Merge:
        """Sets the block weights of an input, counted from 0; None takes them away."""
        text = None if block_weights is None else block_weights.encode()
        call(library.lyco_merge_set_block_weights, self._handle, index, text)
        return self

    def set(self, key: str, value: object) -> Merge:
        """Sets an option, such as `max_size` to `"150MB"`; None leaves it as it is."""
        if value is not None:
            spelled = str(value).lower() if isinstance(value, bool) else str(value)
            call(library.lyco_merge_set, self._handle, key.encode(), spelled.encode())
        return self

    def set_recipe(self, recipe: str | Mapping[str, Any]) -> Merge:
        """Sets the options and block weights as a recipe has them: of a report's `data`, or of a merged file's metadata
        (`lycomerge_recipe`). Inputs and weights are yours to add."""
        spelled = recipe if isinstance(recipe, str) else json.dumps(recipe)
        call(library.lyco_merge_set_recipe, self._handle, spelled.encode())
        return self

    def cancel(self) -> None:
        """Stops what goes on of this merge in other threads, which raises `Cancelled` there."""
        call(library.lyco_merge_cancel, self._handle)

    def deltas(self, take: TakeDelta, progress: Progress = None) -> None:
        """Merges and hands over what is to be added to the model, layer by layer, in the dtype that the option `dtype`
        says. Nothing is fitted or stored."""

        def receive(_user: Any, layer: Any, delta: Any) -> int:
            try:
                view = delta.contents
                data = memoryview(ctypes.string_at(view.data, view.byte_len))
                shape = tuple(view.shape[: view.dim_count])
                take(layer_of(layer.contents), Tensor(view.name.decode(), DTYPES[view.dtype], shape, data))
            except BaseException as error:
                raised.errors.append(error)
            return len(raised.errors)

        callback = _abi.lyco_delta_callback(receive)
        _watched(progress, library.lyco_merge_deltas, self._handle, callback, outputs=[])

    def forecast(self, progress: Progress = None) -> Forecast:
        """Says size and error before the heavy work, from a sample of the layers."""
        found = _abi.lyco_forecast(ctypes.sizeof(_abi.lyco_forecast))
        _watched(progress, library.lyco_merge_forecast, self._handle, outputs=[found])
        return Forecast(found.byte_len, found.input_byte_len, found.relative_error, bool(found.huge))

    def plan(self, progress: Progress = None) -> Plan:
        """Says what the merge comes to in every format, rank and dtype, from a sample of the layers. Options about the
        stored form count for nothing, but for `dtype` and `factor`."""
        plan = Plan()
        _watched(progress, library.lyco_merge_plan, self._handle, outputs=[plan._handle])
        return plan

    def compare(self, progress: Progress = None) -> Comparison:
        """Compares the inputs, two or more: how aligned they are, and where they work against each other."""
        comparison = Comparison()
        _watched(progress, library.lyco_merge_compare, self._handle, outputs=[comparison._handle])
        return comparison

    def run(self, progress: Progress = None) -> tuple[Adapter, Report]:
        """Merges into memory."""
        merged, report = Adapter(), Report()
        _watched(progress, library.lyco_merge_run, self._handle, outputs=[merged._handle, report._handle])
        return merged, report

    def bake(
        self,
        base: str | os.PathLike[str],
        path: str | os.PathLike[str],
        *,
        stochastic_seed: int | None = None,
        progress: Progress = None,
    ) -> Report:
        """Adds the merge to the weights of the checkpoint `base`, and writes the whole model to `path` in the
        checkpoint's own dtypes. With a seed, 8-bit and 16-bit weights are rounded at random, so that small changes are
        kept on average. The report's `data` has what became of every tensor."""
        options = _abi.lyco_bake_options(
            ctypes.sizeof(_abi.lyco_bake_options), stochastic_seed is not None, stochastic_seed or 0
        )
        report = Report()
        _watched(
            progress, library.lyco_merge_bake, self._handle, os.fspath(base).encode(), os.fspath(path).encode(),
            ctypes.byref(options), outputs=[report._handle],
        )  # fmt: skip
        return report

    def extract(
        self,
        base: str | os.PathLike[str],
        tuned: str | os.PathLike[str],
        path: str | os.PathLike[str],
        *,
        progress: Progress = None,
    ) -> Report:
        """Stores what the checkpoint `tuned` has more than `base` as an adapter, as the options about what to store say
        it: `Merge(format="lora", rank=32).extract("base.safetensors", "tuned.safetensors", "training.safetensors")`."""
        report = Report()
        names = [os.fspath(name).encode() for name in (base, tuned, path)]
        _watched(progress, library.lyco_merge_extract, self._handle, *names, outputs=[report._handle])
        return report

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
    base: str | os.PathLike[str] | None = None,
    progress: Progress = None,
    **options: object,
) -> Report:
    """Merges adapters into the file `output`. `weights` are 1 each unless given; `options()` lists the options, such as
    `strategy="smart_fusion"` or `max_size="150MB"`. `base` is the checkpoint that they were trained on, which DoRA and
    others need. `progress=True` shows a progress bar."""
    if weights is None:
        weights = [1.0] * len(paths)
    if len(weights) != len(paths):
        raise OptionError(f"Number of weights ({len(weights)}) must match number of models ({len(paths)})")
    merging = Merge(**options)
    for path, weight in zip(paths, weights, strict=True):
        merging.add(path if isinstance(path, Adapter) else Adapter.open(path, base=base), weight)
    return merging.run_to(output, progress)
