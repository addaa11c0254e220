"""Opened adapters, their layers and tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import _abi, state
from ._library import call, library, text

#: The names of the dtypes, as safetensors spells them.
_DTYPES = {
    value: name.removeprefix("LYCO_DTYPE_")
    for name, value in vars(_abi).items()
    if name.startswith("LYCO_DTYPE_")
}


@dataclass(frozen=True)
class Layer:
    """A layer: `rows` x `cols` is the shape of the weight or bias that it changes, as a matrix."""

    name: str
    family: str
    param: str
    rows: int
    cols: int
    rank: int
    scale: float


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file, not copied: `data` has its bytes, little-endian and read-only, and keeps the file open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def numpy(self) -> Any:
        """The same memory as a read-only NumPy array. BF16 and F8, which NumPy lacks, are refused; their numbers are
        in `data`."""
        return state.numpy_array(self.name, self.dtype, self.shape, self.data)

    def torch(self) -> Any:
        """The same memory as a PyTorch tensor. It must not be written into, which PyTorch can't know: of an opened
        file the memory is read-only, and the process would end."""
        return state.torch_tensor(self.dtype, self.shape, self.data)


class Adapter:
    """An opened adapter: a file, or the result of a merge. It never changes; any number of threads may use it."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, skip_unknown: bool = False) -> Adapter:
        """Opens and checks a safetensors or PyTorch file; nothing in it is ever executed."""
        options = _abi.lyco_open_options(ctypes.sizeof(_abi.lyco_open_options), skip_unknown)
        adapter = cls()
        name = os.fspath(path).encode()
        call(library.lyco_adapter_open, name, ctypes.byref(options), ctypes.byref(adapter._handle))
        return adapter

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "memory", *, skip_unknown: bool = False) -> Adapter:
        """Opens the bytes of a file, which are copied; `name` stands for the path in messages and reports."""
        options = _abi.lyco_open_options(ctypes.sizeof(_abi.lyco_open_options), skip_unknown)
        adapter = cls()
        start = ctypes.cast(ctypes.c_char_p(data), ctypes.POINTER(ctypes.c_uint8))
        call(
            library.lyco_adapter_from_memory,
            name.encode(), start, len(data), ctypes.byref(options), ctypes.byref(adapter._handle),
        )  # fmt: skip
        return adapter

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
        name: str = "memory",
        *,
        skip_unknown: bool = False,
    ) -> Adapter:
        """Opens PyTorch tensors (on any device) or NumPy arrays by their names, which are copied."""
        return cls.from_bytes(state.to_safetensors(tensors, metadata or {}), name, skip_unknown=skip_unknown)

    def __del__(self) -> None:
        library.lyco_adapter_free(self._handle)

    def __repr__(self) -> str:
        return f"<lycomerge.Adapter: {self.kind} of {len(self.layers)} layers>"

    @property
    def kind(self) -> str:
        """`LoRA`, `LoHa`, `LoKr`, `Full`, `Norm` or `Mixed`."""
        return str(text(library.lyco_adapter_kind(self._handle)))

    @property
    def layers(self) -> list[Layer]:
        """The layers, in the order of their names."""
        return [self._layer(index) for index in range(library.lyco_adapter_layer_count(self._handle))]

    def _layer(self, index: int) -> Layer:
        info = _abi.lyco_layer_info(ctypes.sizeof(_abi.lyco_layer_info))
        call(library.lyco_adapter_layer_info, self._handle, index, ctypes.byref(info))
        param = "weight" if info.param == _abi.LYCO_PARAM_WEIGHT else "bias"
        name, family = info.name.decode(), info.family.decode()
        return Layer(name, family, param, info.rows, info.cols, info.rank, info.scale)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors of the file, in the order of their names."""
        for index in range(library.lyco_adapter_tensor_count(self._handle)):
            yield self._tensor(index)

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`; KeyError if there is none."""
        index = ctypes.c_size_t()
        error = ctypes.c_void_p()
        if library.lyco_adapter_find_tensor(self._handle, name.encode(), ctypes.byref(index), ctypes.byref(error)):
            library.lyco_error_free(error)
            raise KeyError(name)
        return self._tensor(index.value)

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors by their names: PyTorch tensors where PyTorch is installed, else NumPy arrays.
        `Tensor.torch()` and `Tensor.numpy()` don't copy."""
        try:
            import torch  # noqa: F401
        except ImportError:
            return {tensor.name: tensor.numpy().copy() for tensor in self.tensors()}
        return {tensor.name: tensor.torch().clone() for tensor in self.tensors()}

    def _tensor(self, index: int) -> Tensor:
        view = _abi.lyco_tensor_view(ctypes.sizeof(_abi.lyco_tensor_view))
        call(library.lyco_adapter_tensor, self._handle, index, ctypes.byref(view))
        shape = tuple(view.shape[: view.dim_count])
        data = self._lend(ctypes.cast(view.data, ctypes.c_void_p).value, view.byte_len)
        return Tensor(view.name.decode(), _DTYPES[view.dtype], shape, data)

    def _lend(self, address: int | None, size: int) -> memoryview:
        if not size:
            return memoryview(b"")
        memory = (ctypes.c_uint8 * size).from_address(address or 0)
        # Whoever holds the view holds the adapter.
        memory._owner = self  # type: ignore[attr-defined]
        return memoryview(memory).cast("B").toreadonly()

    def metadata(self, key: str) -> str | None:
        """A value of the file's metadata; None if it has no such key."""
        value = ctypes.c_char_p()
        call(library.lyco_adapter_metadata, self._handle, key.encode(), ctypes.byref(value))
        return text(value.value)

    @property
    def data(self) -> memoryview:
        """The whole file's bytes, not copied: read-only, and they keep the file open."""
        start, size = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t()
        call(library.lyco_adapter_bytes, self._handle, ctypes.byref(start), ctypes.byref(size))
        return self._lend(ctypes.cast(start, ctypes.c_void_p).value, size.value)

    def to_bytes(self) -> bytes:
        """A copy of the whole file."""
        return bytes(self.data)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file, which appears under its name only when it is whole."""
        call(library.lyco_adapter_save, self._handle, os.fspath(path).encode())
