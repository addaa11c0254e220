"""Tensors by DLPack, version 1: the struct is the library's, and a capsule carries it to whoever takes it."""

from __future__ import annotations

import ctypes
from typing import Any

_NAME = b"dltensor_versioned"

_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_new = ctypes.pythonapi.PyCapsule_New
_new.argtypes, _new.restype = [ctypes.c_void_p, ctypes.c_char_p, _Destructor], ctypes.py_object
# They get a capsule that is about to go, so no reference to it may be made.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Managed(ctypes.Structure):
    """The head of DLManagedTensorVersioned."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


def _destroy(capsule: int) -> None:
    """Gives back what nobody took: who takes it renames the capsule."""
    if _is_valid(capsule, _NAME):
        tensor = _pointer(capsule, _NAME)
        deleter = _Managed.from_address(tensor).deleter
        _Deleter(deleter)(tensor)


_destructor = _Destructor(_destroy)


def capsule(tensor: ctypes.c_void_p) -> Any:
    """A capsule that owns `tensor`."""
    return _new(tensor, _NAME, _destructor)
