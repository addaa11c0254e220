"""Tensors of PyTorch and NumPy, neither of which is needed, from and to memory.

Both call a dtype by the same name, so one table serves both.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import _abi
from ._library import call, library

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


def _numbers(tensor: Any) -> tuple[Any, int, int]:
    """The tensor's numbers, row-major and little-endian: what holds them, where they are, and how many bytes."""
    if hasattr(tensor, "data_ptr"):  # PyTorch's
        held = tensor.detach().cpu().contiguous()
        return held, held.data_ptr(), held.numel() * held.element_size()
    held = tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False)
    return held, held.ctypes.data, held.nbytes


@contextmanager
def builder(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Iterator[ctypes.c_void_p]:
    """A builder with these tensors and metadata."""
    made = ctypes.c_void_p(library.lyco_builder_new())
    try:
        for name, tensor in tensors.items():
            dtype = _DTYPES.get(getattr(tensor.dtype, "name", str(tensor.dtype).removeprefix("torch.")))
            if dtype is None:
                raise TypeError(f"{name} is {tensor.dtype}, which adapters can't have")
            held, start, size = _numbers(tensor)
            shape = tuple(tensor.shape)
            view = _abi.lyco_tensor_view(
                struct_size=ctypes.sizeof(_abi.lyco_tensor_view),
                dtype=getattr(_abi, f"LYCO_DTYPE_{dtype}"),
                name=name.encode(),
                data=ctypes.cast(start, ctypes.POINTER(ctypes.c_uint8)),
                byte_len=size,
                shape=(ctypes.c_size_t * len(shape))(*shape),
                dim_count=len(shape),
            )
            call(library.lyco_builder_add, made, ctypes.byref(view))
            del held  # until here
        for key, value in metadata.items():
            call(library.lyco_builder_set_metadata, made, key.encode(), value.encode())
        yield made
    finally:
        library.lyco_builder_free(made)
