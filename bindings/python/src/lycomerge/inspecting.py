"""What a file is, in a few facts."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from .adapter import Adapter


@dataclass(frozen=True)
class Inspection:
    """What an adapter is. The tables count layers by family and by rank, and tensors by dtype, the most frequent
    first. `scales` are the smallest and the largest alpha/rank, or None where no layer has a rank."""

    kind: str
    byte_len: int
    modules: int
    layers: int
    families: dict[str, int]
    ranks: dict[int, int]
    without_rank: int
    scales: tuple[float, float] | None
    dtypes: dict[str, int]
    metadata: dict[str, str]


def inspect(adapter: Adapter | str | os.PathLike[str]) -> Inspection:
    """Says what an adapter is: its family, size, layers, ranks, dtypes and metadata. Of the tensors, only names and
    shapes are read."""
    opened = adapter if isinstance(adapter, Adapter) else Adapter.open(adapter)
    layers = opened.layers
    ranked = [layer for layer in layers if layer.rank]
    scales = [layer.scale for layer in ranked]
    return Inspection(
        kind=opened.kind,
        byte_len=len(opened.data),
        modules=len({layer.name for layer in layers}),
        layers=len(layers),
        families=dict(Counter(layer.family for layer in layers).most_common()),
        ranks=dict(Counter(layer.rank for layer in ranked).most_common()),
        without_rank=len(layers) - len(ranked),
        scales=(min(scales), max(scales)) if scales else None,
        dtypes=dict(Counter(tensor.dtype for tensor in opened.tensors()).most_common()),
        metadata=opened.all_metadata(),
    )
