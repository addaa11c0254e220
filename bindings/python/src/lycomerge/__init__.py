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
from .listing import Option, Strategy, options, strategies
from .merging import Forecast, Merge, Report, merge
from .progress import Progress

__version__: str = _library.lyco_version().decode()

__all__ = [
    "Adapter",
    "Cancelled",
    "Forecast",
    "FormatError",
    "Inspection",
    "IoError",
    "Layer",
    "LycomergeError",
    "Merge",
    "MismatchError",
    "NumberError",
    "Option",
    "OptionError",
    "Progress",
    "Report",
    "Strategy",
    "Tensor",
    "UnsupportedError",
    "__version__",
    "inspect",
    "merge",
    "options",
    "strategies",
]
