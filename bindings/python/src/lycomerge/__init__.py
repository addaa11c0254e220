"""Merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights, and says how exact the
stored result is.

    import lycomerge

    report = lycomerge.merge(["a.safetensors", "b.safetensors"], weights=[0.6, 0.4], output="merged.safetensors")
    print(report.relative_error)

What the library wants people to know goes to the logger `lycomerge`: warnings, and as INFO what was done.
"""

from ._library import library as _library
from .adapter import Adapter, Layer, Tensor
from .errors import (
    Cancelled,
    FormatError,
    IoError,
    LycomergeError,
    MismatchError,
    NumberError,
    OptionError,
    UnsupportedError,
)
from .inspecting import Inspection, inspect
from .listing import Family, Option, Parameter, Strategy, families, options, strategies
from .merging import Comparison, Forecast, LayerReport, Merge, Plan, Report, TakeDelta, merge
from .progress import Progress

__version__: str = _library.lyco_version().decode()

__all__ = [
    "Adapter",
    "Cancelled",
    "Comparison",
    "Family",
    "Forecast",
    "FormatError",
    "Inspection",
    "IoError",
    "Layer",
    "LayerReport",
    "LycomergeError",
    "Merge",
    "MismatchError",
    "NumberError",
    "Option",
    "OptionError",
    "Parameter",
    "Plan",
    "Progress",
    "Report",
    "Strategy",
    "TakeDelta",
    "Tensor",
    "UnsupportedError",
    "__version__",
    "families",
    "inspect",
    "merge",
    "options",
    "strategies",
]
