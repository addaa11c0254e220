#!/usr/bin/env python3
"""Compares a merged adapter with the sum of its inputs' weight changes, layer by layer, in float64.

    dense_check.py OUT IN[:WEIGHT]...

Every layer's weight change is written out as a dense matrix (adapters.py), so nothing here shares
an idea, or a mistake, with a merge that works on factors. One layer is held at a time. Prints the
relative Frobenius error of OUT over the whole file and the worst layer. The options compare OUT
with what a perfect merge could reach, and a merge report's claimed errors with the true ones.
"""

import argparse
import json
import math
import re
from dataclasses import dataclass

import numpy as np

from adapters import Adapter, parse_input, spread

# Below this, an error is rounding, and a ratio of two of them says nothing.
NOISE = 1e-6
# Above this, the squares of errors are exact enough in float64.
SQUARABLE = 1e-4


def difference(a: np.ndarray | None, b: np.ndarray | None, module: str) -> np.ndarray:
    """a − b, where a missing one is zero."""
    if a is None or b is None:
        return -b if a is None else a
    if a.shape != b.shape:
        raise SystemExit(f"{module}: {a.shape} in one file, {b.shape} in another")
    return a - b


def norm(matrix: np.ndarray | None) -> float:
    return 0.0 if matrix is None else float(np.linalg.norm(matrix))


def tail_error(matrix: np.ndarray, rank: int) -> float:
    """The relative error of the best approximation of that rank, from all singular values.

    The eigenvalues of the Gram matrix, several times faster, give a tail down to about 1e-7; one
    that is anywhere near that is computed again without squaring anything.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    squares = np.linalg.eigvalsh(tall.T @ tall)[::-1].clip(0)
    error = math.sqrt(squares[rank:].sum() / squares.sum())
    if error > SQUARABLE:
        return error
    values = np.linalg.svd(np.linalg.qr(tall, mode="r"), compute_uv=False)
    return norm(values[rank:]) / norm(values)


def rearrange(matrix: np.ndarray, split: tuple[int, int]) -> np.ndarray:
    """(l·p, m·q) to (l·m, p·q): a Kronecker product of (l, m) and (p, q) becomes rank 1."""
    l, m = split
    p, q = matrix.shape[0] // l, matrix.shape[1] // m
    return matrix.reshape(l, p, m, q).swapaxes(1, 2).reshape(l * m, p * q)


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
    parser.add_argument("--peak", metavar="X", type=float, help="the sum is scaled to this largest entry")
    parser.add_argument("--layers", metavar="REGEX", default="", help="only modules that match")
    parser.add_argument("--sample", metavar="N", type=int, help="only so many parameters, evenly spread")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    out: Adapter = arguments.out
    inputs: list[Adapter] = arguments.inputs
    names = {name for adapter in (out, *inputs) for name in adapter.parameters()}
    names = {name for name in names if re.search(arguments.layers, name[0])}
    best_kron, best_rank = Optimum("lokr"), Optimum(f"rank {arguments.optimal_rank}")
    layers: list[Layer] = []
    for module, parameter in spread(sorted(names), arguments.sample):
        made = out.delta(module, parameter)
        wanted, strongest, split = None, 0.0, None
        for adapter in inputs:
            part = adapter.delta(module, parameter)
            if part is None:
                continue
            if (own_split := adapter.kron_split(module)) and norm(part) > strongest:
                strongest, split = norm(part), own_split
            wanted = part if wanted is None else difference(wanted, -part, module)
        if arguments.peak and norm(wanted):
            wanted = wanted * (arguments.peak / np.abs(wanted).max())
        layer = Layer(module, parameter, norm(difference(wanted, made, module)), norm(wanted))
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
    main()
