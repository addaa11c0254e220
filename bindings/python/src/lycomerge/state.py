"""Tensors of PyTorch and NumPy, neither of which is needed, from and to memory.

Both call a dtype by the same name, so one table serves both.
"""

from __future__ import annotations

import ctypes
import json
import warnings
from collections.abc import Mapping
from typing import Any

#: What PyTorch and NumPy call the dtypes.
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def numpy_array(name: str, dtype: str, shape: tuple[int, ...], data: memoryview) -> Any:
    """An array over `data`."""
    import numpy

    try:
        kind = numpy.dtype(_NAMES[dtype]).newbyteorder("<")
    except TypeError:
        raise TypeError(f"NumPy has no {dtype}, which is what {name} is") from None
    return numpy.frombuffer(data, kind).reshape(shape)


def torch_tensor(dtype: str, shape: tuple[int, ...], data: memoryview) -> Any:
    """A tensor over `data`."""
    import torch

    kind = getattr(torch, _NAMES[dtype])
    if not data:
        return torch.empty(shape, dtype=kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(data, dtype=kind).reshape(shape)


def _bytes(tensor: Any) -> bytes:
    """The tensor's numbers, row-major and little-endian."""
    if hasattr(tensor, "data_ptr"):  # PyTorch's
        tensor = tensor.detach().cpu().contiguous()
        return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return bytes(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())


def to_safetensors(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file. It stands in for a function of the library that takes tensors as they are."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        kind = _DTYPES.get(getattr(tensor.dtype, "name", str(tensor.dtype).removeprefix("torch.")))
        if kind is None:
            raise TypeError(f"{name} is {tensor.dtype}, which adapters can't have")
        parts.append(_bytes(tensor))
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are as well aligned as the format promises
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
