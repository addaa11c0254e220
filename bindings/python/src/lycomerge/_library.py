"""The shared library: found, loaded, and called so that what fails raises."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from pathlib import Path
from typing import Any

from . import _abi
from .errors import LycomergeError, error_for

_NAMES = {"win32": "lycomerge.dll", "darwin": "liblycomerge.dylib"}


def _path() -> str:
    """Where the library is: $LYCOMERGE_LIBRARY, beside this file, or where the system has it."""
    if named := os.environ.get("LYCOMERGE_LIBRARY"):
        return named
    beside = Path(__file__).with_name(_NAMES.get(sys.platform, "liblycomerge.so"))
    found = str(beside) if beside.exists() else ctypes.util.find_library("lycomerge")
    if not found:
        raise ImportError(
            f"there is no {beside.name} beside {beside.parent} or among the system's libraries; "
            "set LYCOMERGE_LIBRARY to its path"
        )
    return found


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_path())
    found = int(library.lyco_abi_version())
    if found != _abi.ABI_VERSION:
        raise ImportError(f"{_path()} has interface {found}; this package needs {_abi.ABI_VERSION}")
    _abi.declare(library)
    return library


library = _load()


def text(value: bytes | None) -> str | None:
    """A string of the library."""
    return None if value is None else value.decode()


def failure(error: ctypes.c_void_p) -> LycomergeError:
    """The exception for a failed call's error, which is freed."""
    try:
        status = int(library.lyco_error_status(error))
        return error_for(
            status,
            text(library.lyco_error_message(error)) or str(text(library.lyco_status_name(status))),
            text(library.lyco_error_file(error)),
            text(library.lyco_error_layer(error)),
        )
    finally:
        library.lyco_error_free(error)


def call(function: Any, *arguments: Any) -> None:
    """Calls what takes an error at the end, and raises what it says."""
    error = ctypes.c_void_p()
    if function(*arguments, ctypes.byref(error)) != _abi.LYCO_STATUS_OK:
        raise failure(error)
