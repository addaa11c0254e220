"""Tensors are NumPy's arrays."""

from numpy import empty, float16, float32, frombuffer  # noqa: F401


def from_numpy(array):  # type: ignore[no-untyped-def]
    return array
