"""The shared library: found, loaded, and called so that what fails raises. Its log goes to the logger `lycomerge`."""

from __future__ import annotations

import atexit
import ctypes
import ctypes.util
import logging
import os
import sys
import threading
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


class _Raised(threading.local):
    """What callbacks raised during this thread's call. None of it may leave a callback, so the call raises it."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []


raised = _Raised()
#: A lock for each call that goes on, which holds it.
_calls: set[threading.Lock] = set()
_exiting = threading.Event()
if hasattr(os, "register_at_fork"):  # The calls of other threads don't go on in a child.
    os.register_at_fork(after_in_child=_calls.clear)


def leave_if_exiting() -> None:
    """Ends threads that Python doesn't wait for when it ends: soon there is nothing left that they could call back."""
    if _exiting.is_set() and threading.current_thread().daemon:
        raise SystemExit  # which ends a thread in silence


def call(function: Any, *arguments: Any) -> None:
    """Calls what takes an error at the end, and raises what it says. It may raise after the call did its work, so what
    it gives must have its owner before."""
    error = ctypes.c_void_p()
    going_on = threading.Lock()
    with going_on:
        _calls.add(going_on)
        try:
            leave_if_exiting()
            failed = function(*arguments, ctypes.byref(error)) != _abi.LYCO_STATUS_OK
        finally:
            _calls.discard(going_on)
    said = failure(error) if failed else None
    if raised.errors:
        first = raised.errors[0]
        raised.errors.clear()
        raise first
    if said:
        raise said


_logger = logging.getLogger("lycomerge")
_LEVELS = {_abi.LYCO_LOG_LEVEL_WARNING: logging.WARNING, _abi.LYCO_LOG_LEVEL_INFO: logging.INFO}


def _log(_user: Any, level: int, message: bytes) -> None:
    try:
        _logger.log(_LEVELS.get(level, logging.INFO), "%s", message.decode())
    except BaseException as error:  # Ctrl-C, say: the first Python that runs after a long call hears of it.
        raised.errors.append(error)


def _set_log(callback: Any) -> None:
    call(library.lyco_set_log, callback, None, _abi.LYCO_LOG_LEVEL_INFO)


_log_callback = _abi.lyco_log_callback(_log)
_set_log(_log_callback)


@atexit.register
def _exit() -> None:
    """Waits for the calls of threads that Python doesn't wait for. Their callbacks stop long ones."""
    _exiting.set()
    _set_log(_abi.lyco_log_callback())
    for going_on in list(_calls):
        going_on.acquire()
