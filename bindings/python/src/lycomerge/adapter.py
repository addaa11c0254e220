"""Opened adapters, their layers and tensors."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _abi, dlpack, state
from ._library import call, library, text

#: The names of the dtypes, as safetensors spells them.
DTYPES = {
    value: name.removeprefix("LYCO_DTYPE_")
    for name, value in vars(_abi).items()
    if name.startswith("LYCO_DTYPE_")
}

#: The bytes of a number, of those dtypes that deltas come in.
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


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
    stored_count: int


def param_name(param: int) -> str:
    """Which parameter of a module it is."""
    return "weight" if param == _abi.LYCO_PARAM_WEIGHT else "bias"


def layer_of(info: Any) -> Layer:
    """The layer that a lyco_layer_info describes."""
    return Layer(
        info.name.decode(), info.family.decode(), param_name(info.param), info.rows, info.cols, info.rank, info.scale,
        info.stored_count,
    )  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor: `data` has its bytes, little-endian and read-only. A tensor of a file is not copied, and its `data`
    keeps the file open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    _lent: tuple[Adapter, int] | None = field(default=None, repr=False, compare=False)

    def numpy(self) -> Any:
        """The same memory as a read-only NumPy array. BF16 and F8, which NumPy lacks, are refused; their numbers are
        in `data`."""
        return state.numpy_array(self.name, self.dtype, self.shape, self.data)

    def torch(self) -> Any:
        """The same memory as a PyTorch tensor. It must not be written into, which PyTorch can't know: of an opened
        file the memory is read-only, and the process would end."""
        return state.torch_tensor(self.dtype, self.shape, self.data)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU, as DLPack says it."""
        return (1, 0)

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The same memory by DLPack, version 1, for `numpy.from_dlpack(tensor)`, `torch.from_dlpack(tensor)` and the
        like; only tensors of adapters have it. Libraries that know DLPack 0 alone, which can't say that memory is
        read-only, are refused."""
        if self._lent is None:
            raise BufferError(f"{self.name} is not an adapter's; use numpy() or torch()")
        if max_version is None or max_version[0] < 1:
            raise BufferError("the numbers are read-only, which needs DLPack 1")
        if dl_device not in (None, (1, 0)) or copy:
            raise BufferError("the numbers are on the CPU, and are not copied")
        adapter, index = self._lent
        tensor = ctypes.c_void_p()
        call(library.lyco_adapter_tensor_dlpack, adapter._handle, index, ctypes.byref(tensor))
        return dlpack.capsule(tensor)


def _options(skip_unknown: bool, base: str | os.PathLike[str] | None) -> _abi.lyco_open_options:
    size = ctypes.sizeof(_abi.lyco_open_options)
    return _abi.lyco_open_options(size, skip_unknown, None if base is None else os.fspath(base).encode())


class Adapter:
    """An opened adapter: a file, or the result of a merge. It never changes; any number of threads may use it."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        skip_unknown: bool = False,
        base: str | os.PathLike[str] | None = None,
    ) -> Adapter:
        """Opens and checks a safetensors or PyTorch file, or PEFT's folder; nothing in it is ever executed.

        `base` is the checkpoint that the adapter was trained on: DoRA, OFT and other families do what depends on its
        weights, and need it.
        """
        options = _options(skip_unknown, base)
        adapter = cls()
        name = os.fspath(path).encode()
        call(library.lyco_adapter_open, name, ctypes.byref(options), ctypes.byref(adapter._handle))
        return adapter

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        name: str = "memory",
        *,
        skip_unknown: bool = False,
        base: str | os.PathLike[str] | None = None,
    ) -> Adapter:
        """Opens the bytes of a file, which are copied; `name` stands for the path in messages and reports."""
        options = _options(skip_unknown, base)
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
        base: str | os.PathLike[str] | None = None,
    ) -> Adapter:
        """Opens PyTorch tensors (on any device) or NumPy arrays by their names, which are copied."""
        options = _options(skip_unknown, base)
        adapter = cls()
        with state.builder(tensors, metadata or {}) as builder:
            call(
                library.lyco_builder_finish,
                builder, name.encode(), ctypes.byref(options), ctypes.byref(adapter._handle),
            )  # fmt: skip
        return adapter

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
        return layer_of(info)

    def delta(self, index: int, dtype: str = "F32") -> Tensor:
        """What the layer `layers[index]` does to its weight, strength 1: rows x cols numbers, F64, F32, F16 or BF16."""
        layer = self._layer(index)
        number = next((number for number, name in DTYPES.items() if name == dtype), 0)
        size = layer.rows * layer.cols * WIDTHS.get(dtype, 0)
        memory = bytearray(size)
        start = (ctypes.c_uint8 * size).from_buffer(memory)
        call(library.lyco_adapter_delta, self._handle, index, number, start, size)
        return Tensor(layer.name, dtype, (layer.rows, layer.cols), memoryview(memory).toreadonly())

    def delta_norm(self, index: int) -> float:
        """The Frobenius norm of `delta(index)`, found without making it."""
        norm = ctypes.c_double()
        call(library.lyco_adapter_delta_norm, self._handle, index, ctypes.byref(norm))
        return norm.value

    def survey(self) -> dict[str, Any]:
        """What the adapter is, as `lycomerge inspect --json` says it, with norms by block of the model. Reads the whole
        file, the first time."""
        said = ctypes.c_char_p()
        call(library.lyco_adapter_survey, self._handle, ctypes.byref(said))
        found: dict[str, Any] = json.loads(said.value or b"{}")
        return found

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
        return Tensor(view.name.decode(), DTYPES[view.dtype], shape, data, (self, index))

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

    def all_metadata(self) -> dict[str, str]:
        """The file's metadata."""
        count = library.lyco_adapter_metadata_count(self._handle)
        keys = [str(text(library.lyco_adapter_metadata_key(self._handle, index))) for index in range(count)]
        return {key: str(self.metadata(key)) for key in keys}

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
