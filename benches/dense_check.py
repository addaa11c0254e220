#!/usr/bin/env python3
"""Compares a merged adapter with the sum of its inputs' weight changes, layer by layer, in float64.

    dense_check.py OUT IN[:WEIGHT]...

Every layer's weight change is written out as a dense (out, in·kernel) matrix from the definition
of its format, so nothing here shares an idea, or a mistake, with a merge that works on factors.
One layer is held at a time. Prints the relative Frobenius error of OUT over the whole file and the
worst layer. The options compare OUT with what a perfect merge could reach, and a merge report's
claimed errors with the true ones.
"""

import argparse
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

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
# Below this, an error is rounding, and a ratio of two of them says nothing.
NOISE = 1e-6


@dataclass
class Scale:
    """The factor alpha/rank of one module: 1 without an alpha, nothing at all for an alpha of 0."""

    module: str
    alpha: Tensor | None

    def __call__(self, rank: int) -> float:
        if self.alpha is None:
            return 1.0
        alpha = self.alpha.item()
        if not math.isfinite(alpha):
            raise SystemExit(f"{self.module}: alpha is {alpha}")
        return alpha / rank


def flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(r, r, *k) core, (r, out) and (r, in) factors: the core's first axis belongs to the output."""
    return torch.einsum("ij...,io,jc->oc...", core, a, b)


def kron(a: Tensor, b: Tensor) -> Tensor:
    """a (l, m) and b (p, q, *k) to (l·p, m·q, *k)."""
    l, m = a.shape
    p, q, *kernel = b.shape
    return torch.einsum("lm,pq...->lpmq...", a, b).reshape(l * p, m * q, *kernel)


def lora(t: dict[str, Tensor], scale: Scale) -> Tensor:
    up, down = flat(t["lora_up.weight"]), flat(t["lora_down.weight"])
    factor = scale(down.shape[0])
    if "lora_mid.weight" in t:
        return factor * flat(tucker(t["lora_mid.weight"], up.T, down))
    return factor * (up @ down)


def loha(t: dict[str, Tensor], scale: Scale) -> Tensor:
    def half(i: int) -> Tensor:
        a, b = t[f"hada_w{i}_a"], flat(t[f"hada_w{i}_b"])
        return flat(tucker(t[f"hada_t{i}"], a, b)) if f"hada_t{i}" in t else a @ b

    return scale(t["hada_w1_b"].shape[0]) * half(1) * half(2)


def lokr(t: dict[str, Tensor], scale: Scale) -> Tensor:
    """With both factors full, alpha has no meaning; else the rank is w2's, or w1's if w2 is full."""
    ranks = [t[key].shape[0] for key in ("lokr_w2_b", "lokr_w1_b") if key in t]
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    elif "lokr_t2" in t:
        w2 = tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:  # (p, q·k), which the product leaves in the order of (m·q, *k)
        w2 = t["lokr_w2_a"] @ flat(t["lokr_w2_b"])
    if ranks:
        w1 = w1 * scale(ranks[0])
    return flat(kron(w1, w2))


class Adapter:
    """One file, its keys grouped by module; tensors are read when a layer is asked for."""

    def __init__(self, path: str, weight: float = 1.0) -> None:
        self.path, self.weight = path, weight
        self.file = safe_open(path, "pt")
        self.modules: dict[str, set[str]] = {}
        for key in self.file.keys():
            match = KEY.fullmatch(key)
            if not match:
                raise SystemExit(f"{path}: cannot reconstruct {key}")
            self.modules.setdefault(match[1], set()).add(match[2])

    def _read(self, module: str, suffix: str) -> Tensor:
        return self.file.get_tensor(f"{module}.{suffix}").to(torch.float64)

    def parameters(self) -> Iterator[tuple[str, str]]:
        for module, suffixes in self.modules.items():
            if suffixes - {"alpha", *BIASES}:
                yield module, "weight"
            if suffixes & set(BIASES):
                yield module, "bias"

    def delta(self, module: str, parameter: str) -> Tensor | None:
        """The parameter's change at this file's weight, as a matrix; None if it has none."""
        suffixes = self.modules.get(module, set())
        if parameter == "bias":
            found = [suffix for suffix in BIASES if suffix in suffixes]
            return self.weight * flat(self._read(module, found[0])) if found else None
        found = [name for name, members in FORMATS.items() if suffixes & set(members)]
        if not found:
            return None
        if len(found) > 1:
            raise SystemExit(f"{self.path}: {module} is {' and '.join(found)} at once")
        members = {s: self._read(module, s) for s in suffixes & set(FORMATS[found[0]])}
        scale = Scale(module, self._read(module, "alpha") if "alpha" in suffixes else None)
        match found[0]:
            case "lora":
                matrix = lora(members, scale)
            case "loha":
                matrix = loha(members, scale)
            case "lokr":
                matrix = lokr(members, scale)
            case _:
                (difference,) = members.values()
                matrix = flat(difference)
        return matrix.mul_(self.weight)

    def kron_split(self, module: str) -> tuple[int, int] | None:
        """The shape of w1 if the module is a LoKr."""
        suffixes = self.modules.get(module, set())
        if "lokr_w1" in suffixes:
            rows, columns = self._read(module, "lokr_w1").shape
            return rows, columns
        if "lokr_w1_a" in suffixes:
            a, b = self._read(module, "lokr_w1_a"), self._read(module, "lokr_w1_b")
            return a.shape[0], b.shape[1]
        return None


def difference(a: Tensor | None, b: Tensor | None, module: str) -> Tensor:
    """a − b, where a missing one is zero."""
    if a is None or b is None:
        return -b if a is None else a
    if a.shape != b.shape:
        raise SystemExit(f"{module}: {tuple(a.shape)} in one file, {tuple(b.shape)} in another")
    return a - b


def tail_error(matrix: Tensor, rank: int) -> float:
    """The relative error of the best approximation of that rank. The QR makes the SVD small."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    values = torch.linalg.svdvals(torch.linalg.qr(tall, mode="r").R)
    return (values[rank:].norm() / values.norm()).item()


def rearrange(matrix: Tensor, split: tuple[int, int]) -> Tensor:
    """(l·p, m·q) to (l·m, p·q): a Kronecker product of (l, m) and (p, q) becomes rank 1."""
    l, m = split
    p, q = matrix.shape[0] // l, matrix.shape[1] // m
    return matrix.reshape(l, p, m, q).transpose(1, 2).reshape(l * m, p * q)


@dataclass
class Layer:
    """How far OUT is from the weighted sum in one parameter of one module."""

    name: str
    parameter: str
    wrong: float
    norm: float

    @property
    def error(self) -> float:
        if self.norm:
            return self.wrong / self.norm
        return math.inf if self.wrong else 0.0


def whole(layers: list[Layer]) -> Layer:
    """All of them as one long vector."""
    wrong, norm = (math.hypot(*(getattr(x, field) for x in layers)) for field in ("wrong", "norm"))
    return Layer("whole file", "", wrong, norm)


class Optimum:
    """The least error that a format allows in each layer, beside the error that OUT has."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.found: list[tuple[Layer, float]] = []

    def add(self, layer: Layer, best: float) -> None:
        print(f"{self.what} {layer.name}: best {best:.6e}, OUT {layer.error:.6e}")
        self.found.append((layer, best))

    def print_summary(self) -> None:
        if not self.found:
            return
        made = whole([layer for layer, _ in self.found])
        best = math.hypot(*(best * layer.norm for layer, best in self.found)) / made.norm
        layer, least = max(self.found, key=lambda pair: pair[0].error - pair[1])
        print(
            f"{self.what}: best {best:.6e}, OUT {made.error:.6e} over {len(self.found)} layers; "
            f"largest excess {layer.error - least:.3e} ({layer.name})"
        )


def compare_report(path: str, layers: list[Layer]) -> None:
    """The report's error of each layer against the true one."""
    with open(path, encoding="utf-8") as file:
        claims = {(x["name"], x["param"]): x["error"] for x in json.load(file)["layers"]}
    known = [layer for layer in layers if (layer.name, layer.parameter) in claims]
    print(f"report: has {len(known)} of {len(layers)} parameters, and {len(claims) - len(known)} others")
    absolute = [(abs(claims[x.name, x.parameter] - x.error), x) for x in known]
    relative = [(gap / x.error, x) for gap, x in absolute if x.error > NOISE]
    for word, gaps in (("absolute", absolute), ("relative", relative)):
        if gaps:
            gap, layer = max(gaps, key=lambda pair: pair[0])
            claim = claims[layer.name, layer.parameter]
            print(
                f"largest {word} deviation {gap:.3e}: {layer.name} ({layer.parameter}), "
                f"reported {claim:.6e}, true {layer.error:.6e}"
            )


def parse_input(text: str) -> Adapter:
    path, _, tail = text.rpartition(":")
    try:
        weight = float(tail) if path else 1.0
    except ValueError:  # the colon is part of the name
        path, weight = "", 1.0
    return Adapter(path or text, weight)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT", type=Adapter)
    parser.add_argument("inputs", metavar="IN[:WEIGHT]", nargs="+", type=parse_input)
    parser.add_argument("--report", metavar="REPORT.json", help="check the errors that it claims")
    parser.add_argument(
        "--optimal-lokr",
        action="store_true",
        help="the best Kronecker product with the w1 shape of the strongest input",
    )
    parser.add_argument("--optimal-rank", metavar="R", type=int, help="the best matrix of rank R")
    parser.add_argument("--layers", metavar="REGEX", default="", help="only modules that match")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    out: Adapter = arguments.out
    inputs: list[Adapter] = arguments.inputs
    names = {name for adapter in (out, *inputs) for name in adapter.parameters()}
    best_kron, best_rank = Optimum("lokr"), Optimum(f"rank {arguments.optimal_rank}")
    layers: list[Layer] = []
    for module, parameter in sorted(names):
        if not re.search(arguments.layers, module):
            continue
        made = out.delta(module, parameter)
        wanted, strongest, split = None, 0.0, None
        for adapter in inputs:
            part = adapter.delta(module, parameter)
            if part is None:
                continue
            if (own_split := adapter.kron_split(module)) and part.norm().item() > strongest:
                strongest, split = part.norm().item(), own_split
            wanted = part if wanted is None else difference(wanted, part.neg_(), module)
        wrong = difference(wanted, made, module).norm().item()
        layer = Layer(module, parameter, wrong, 0.0 if wanted is None else wanted.norm().item())
        layers.append(layer)
        if parameter == "bias" or not layer.norm:
            continue
        if arguments.optimal_lokr and split:
            best_kron.add(layer, tail_error(rearrange(wanted, split), 1))
        if arguments.optimal_rank is not None:
            best_rank.add(layer, tail_error(wanted, arguments.optimal_rank))
    if not layers:
        raise SystemExit("no layers to compare")
    worst, file = max(layers, key=lambda layer: layer.error), whole(layers)
    print(f"error {file.error:.6e} over {len(layers)} parameters, norm {file.norm:.6e}")
    print(f"worst {worst.error:.6e}: {worst.name} ({worst.parameter})")
    best_kron.print_summary()
    best_rank.print_summary()
    if arguments.report:
        compare_report(arguments.report, layers)


if __name__ == "__main__":
    with torch.no_grad():
        main()
