"""Reads adapter files layer by layer, and writes a layer's ΔW out densely from the definition of its format.

Nothing here shares an idea, or a mistake, with a merge that works on factors. The formulas use only
what numpy's arrays and torch's tensors have in common, so that a check in float64 and a baseline in
torch say the same thing. A ΔW is a matrix (out, in·kernel).
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

# numpy's or torch's.
Array = Any
Members = dict[str, Array]

# The members of each format; a module is of the format that it has a member of.
FORMATS = {
    "lora": ("lora_up.weight", "lora_down.weight", "lora_mid.weight"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "diff": ("diff",),
    "norm": ("w_norm",),
}
BIASES = ("diff_b", "b_norm")
SUFFIXES = ("alpha", *BIASES, *(suffix for members in FORMATS.values() for suffix in members))
KEY = re.compile(rf"(.+)\.({'|'.join(map(re.escape, SUFFIXES))})")


def flat(array: Array) -> Array:
    return array.reshape(array.shape[0], -1)


def tucker(core: Array, a: Array, b: Array) -> Array:
    """(r, r, *k) core, (r, out) and (r, in) factors: the core's first axis belongs to the output."""
    i, j, *kernel = core.shape
    left = (a.T @ flat(core)).reshape(a.shape[1], j, -1)
    return (b.T @ left).reshape(a.shape[1], b.shape[1], *kernel)


def kron(a: Array, b: Array) -> Array:
    """a (l, m) and b (p, q, *k) to (l·p, m·q, *k)."""
    l, m = a.shape
    p, q, *kernel = b.shape
    product = a[:, None, :, None] * flat(b).reshape(1, p, 1, -1)
    return product.reshape(l * p, m * q, *kernel)


def lora(t: Members) -> tuple[Array, int]:
    up, down = flat(t["lora_up.weight"]), flat(t["lora_down.weight"])
    if "lora_mid.weight" in t:
        return flat(tucker(t["lora_mid.weight"], up.T, down)), down.shape[0]
    return up @ down, down.shape[0]


def loha(t: Members) -> tuple[Array, int]:
    def half(i: int) -> Array:
        a, b = t[f"hada_w{i}_a"], flat(t[f"hada_w{i}_b"])
        return flat(tucker(t[f"hada_t{i}"], a, b)) if f"hada_t{i}" in t else a @ b

    return half(1) * half(2), t["hada_w1_b"].shape[0]


def lokr(t: Members) -> tuple[Array, int | None]:
    """With both factors full, alpha has no meaning; else the rank is w2's, or w1's if w2 is full."""
    ranks = [t[key].shape[0] for key in ("lokr_w2_b", "lokr_w1_b") if key in t]
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    elif "lokr_t2" in t:
        w2 = tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:  # (p, q·k), which the product leaves in the order of (m·q, *k)
        w2 = t["lokr_w2_a"] @ flat(t["lokr_w2_b"])
    return flat(kron(w1, w2)), ranks[0] if ranks else None


def entries(t: Members) -> tuple[Array, None]:
    (difference,) = t.values()
    return flat(difference), None


# Members to ΔW without alpha/rank, and that rank.
DELTAS = {"lora": lora, "loha": loha, "lokr": lokr, "diff": entries, "norm": entries}


def halves_of_bfloat(data: np.ndarray) -> np.ndarray:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def float8_e4m3(data: np.ndarray) -> np.ndarray:
    """No infinities; the numbers below 2⁻⁶ are subnormal, and all ones is NaN."""
    exponent, mantissa = (data >> 3) & 15, (data & 7).astype(np.float32)
    normal = np.ldexp(8 + mantissa, exponent.astype(np.int32) - 10)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), normal)
    value[(data & 127) == 127] = np.nan
    return np.where(data & 128, -value, value)


# Bytes to numpy's own numbers, losslessly.
DTYPES = {
    "F64": lambda data: data.view("<f8"),
    "F32": lambda data: data.view("<f4"),
    "F16": lambda data: data.view("<f2"),
    "BF16": halves_of_bfloat,
    "F8_E5M2": lambda data: (data.astype("<u2") << 8).view("<f2"),
    "F8_E4M3": float8_e4m3,
}


class Adapter:
    """One file, its keys grouped by module; tensors are read when a layer is asked for."""

    def __init__(self, path: str, weight: float = 1.0) -> None:
        self.path, self.weight = path, weight
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._tensors: dict[str, dict[str, Any]] = json.loads(file.read(length))
        self._tensors.pop("__metadata__", None)
        self._begin = 8 + length
        self.modules: dict[str, set[str]] = {}
        for key in self._tensors:
            match = KEY.fullmatch(key)
            if not match:
                raise SystemExit(f"{path}: cannot reconstruct {key}")
            self.modules.setdefault(match[1], set()).add(match[2])

    def read(self, module: str, suffix: str) -> np.ndarray:
        """A tensor in the file's own precision (float32 for what numpy lacks)."""
        tensor = self._tensors[f"{module}.{suffix}"]
        begin, end = tensor["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self._begin + begin)
            data = np.frombuffer(bytearray(file.read(end - begin)), np.uint8)
        if tensor["dtype"] not in DTYPES:
            raise SystemExit(f"{self.path}: {module}.{suffix} is {tensor['dtype']}")
        return DTYPES[tensor["dtype"]](data).reshape(tensor["shape"])

    def shape(self, module: str, suffix: str) -> tuple[int, ...]:
        return tuple(self._tensors[f"{module}.{suffix}"]["shape"])

    def parameters(self) -> Iterator[tuple[str, str]]:
        for module, suffixes in self.modules.items():
            if suffixes - {"alpha", *BIASES}:
                yield module, "weight"
            if suffixes & set(BIASES):
                yield module, "bias"

    def members(self, module: str) -> tuple[str, Members] | None:
        """The module's format and its tensors as they are stored; None if it changes no weight."""
        suffixes = self.modules.get(module, set())
        found = [name for name, members in FORMATS.items() if suffixes & set(members)]
        if not found:
            return None
        if len(found) > 1:
            raise SystemExit(f"{self.path}: {module} is {' and '.join(found)} at once")
        return found[0], {s: self.read(module, s) for s in suffixes & set(FORMATS[found[0]])}

    def scale(self, module: str, rank: int | None) -> float:
        """alpha/rank: 1 without an alpha or a rank, and nothing at all for an alpha of 0."""
        if rank is None or "alpha" not in self.modules[module]:
            return 1.0
        alpha = float(self.read(module, "alpha").item())
        if not math.isfinite(alpha):
            raise SystemExit(f"{self.path}: {module}: alpha is {alpha}")
        return alpha / rank

    def delta(self, module: str, parameter: str = "weight") -> np.ndarray | None:
        """The parameter's change at this file's weight, in float64; None if it has none."""
        if parameter == "bias":
            found = [suffix for suffix in BIASES if suffix in self.modules.get(module, ())]
            return self.weight * flat(self.read(module, found[0]).astype(np.float64)) if found else None
        members = self.members(module)
        if members is None:
            return None
        name, tensors = members
        matrix, rank = DELTAS[name]({key: x.astype(np.float64) for key, x in tensors.items()})
        return matrix * (self.weight * self.scale(module, rank))

    def kron_split(self, module: str) -> tuple[int, int] | None:
        """The shape of w1 if the module is a LoKr."""
        suffixes = self.modules.get(module, set())
        if "lokr_w1" in suffixes:
            rows, columns = self.shape(module, "lokr_w1")
            return rows, columns
        if "lokr_w1_a" in suffixes:
            return self.shape(module, "lokr_w1_a")[0], self.shape(module, "lokr_w1_b")[1]
        return None


def parse_input(text: str) -> Adapter:
    """PATH or PATH:WEIGHT"""
    path, _, tail = text.rpartition(":")
    try:
        weight = float(tail) if path else 1.0
    except ValueError:  # the colon is part of the name
        path, weight = "", 1.0
    return Adapter(path or text, weight)


def spread(items: list[Any], count: int | None) -> list[Any]:
    """That many of the items, evenly spread over the list; all if none is said or there are no more."""
    if not count or count >= len(items):
        return items
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]
