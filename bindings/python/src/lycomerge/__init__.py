"""Merges LoKr, LoHa, LoRA and other adapters of image models by what they do to the weights, and says how exact the
stored result is.

    import lycomerge

    report = lycomerge.merge(["a.safetensors", "b.safetensors"], weights=[0.6, 0.4], output="merged.safetensors")
    print(report.relative_error)
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
from .merging import Merge, Progress, Report, merge

__version__: str = _library.lyco_version().decode()

__all__ = [
    "Adapter",
    "Cancelled",
    "FormatError",
    "IoError",
    "Layer",
    "LycomergeError",
    "Merge",
    "MismatchError",
    "NumberError",
    "OptionError",
    "Progress",
    "Report",
    "Tensor",
    "UnsupportedError",
    "__version__",
    "merge",
]
