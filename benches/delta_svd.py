#!/usr/bin/env python3
"""The right merge done the usual way: every layer's ΔW summed densely in torch, then cut to a rank.

    delta_svd.py OUT IN... --rank R

Forms ΔW of each input in float32, adds, takes `torch.svd_lowrank` (or, with --full-svd, the whole
`torch.linalg.svd`), and saves a LoRA in float16. With --layers N only N layers are done: they are
spread evenly over all layers in order of cost, and each stands for its neighbours in that order,
in proportion to the cost; out·in·kernel for svd_lowrank, times the smaller side for the whole SVD.

Prints a line of JSON: the seconds of the layers done and of everything else, how many layers of
how many, and the seconds that all layers would take; where that is an extrapolation, it says so.
Saving isn't extrapolated, so a sample flatters this script a little.
"""

import time
from typing import NamedTuple


class Clock(NamedTuple):
    """Seconds of waiting, and of work on all cores."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Clock":
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: "Clock", times: float = 1.0) -> "Clock":
        return Clock(self.wall + times * other.wall, self.cpu + times * other.cpu)

    def passed(self) -> "Clock":
        return Clock.now().plus(self, -1)


STARTED = Clock.now()  # before torch, whose import is part of what a user waits for

import argparse
import json

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters import DELTAS, Adapter, spread

# svd_lowrank wants a few more directions than are kept.
OVERSAMPLING = 8


def delta(adapter: Adapter, module: str) -> Tensor | None:
    members = adapter.members(module)
    if members is None:
        return None
    name, tensors = members
    matrix, rank = DELTAS[name]({key: torch.from_numpy(x).float() for key, x in tensors.items()})
    scale = adapter.scale(module, rank)
    return matrix if scale == 1 else matrix.mul_(scale)


def merge(inputs: list[Adapter], module: str) -> Tensor:
    parts = (delta(adapter, module) for adapter in inputs)
    return sum(part for part in parts if part is not None)


def truncate(matrix: Tensor, rank: int, full_svd: bool) -> tuple[Tensor, Tensor]:
    limit = min(matrix.shape)
    if full_svd:
        u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, sigma, v = torch.svd_lowrank(matrix, q=min(rank + OVERSAMPLING, limit))
        vt = v.T
    root = sigma[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def shape_of(inputs: list[Adapter], module: str) -> tuple[int, int]:
    """The shape of ΔW, from those of the factors."""
    adapter = next(a for a in inputs if module in a.modules)

    def sides(suffix: str) -> tuple[int, int]:
        first, *rest = adapter.shape(module, suffix)
        return first, torch.Size(rest).numel()

    suffixes = adapter.modules[module]
    if "lora_up.weight" in suffixes:
        return sides("lora_up.weight")[0], sides("lora_down.weight")[1]
    if "hada_w1_a" in suffixes:
        return sides("hada_w1_a")[0], sides("hada_w1_b")[1]
    if split := adapter.kron_split(module):
        left, right = ("lokr_w2",) * 2 if "lokr_w2" in suffixes else ("lokr_w2_a", "lokr_w2_b")
        return split[0] * sides(left)[0], split[1] * sides(right)[1]
    return sides("diff")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("inputs", metavar="IN", nargs="+")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--layers", metavar="N", type=int, help="only so many, and extrapolate")
    parser.add_argument("--full-svd", action="store_true", help="torch.linalg.svd")
    arguments = parser.parse_args()

    inputs = [Adapter(path) for path in arguments.inputs]
    modules = sorted({module for adapter in inputs for module, _ in adapter.parameters()})

    def cost(module: str) -> int:
        rows, columns = shape_of(inputs, module)
        return rows * columns * (min(rows, columns) if arguments.full_svd else 1)

    by_cost = sorted(((cost(module), module) for module in modules), reverse=True)
    chosen = spread(list(range(len(by_cost))), arguments.layers)
    # The first calls start threads and load kernels; that mustn't be extrapolated.
    truncate(torch.eye(512), arguments.rank, arguments.full_svd)
    done, total, stored = Clock(0.0, 0.0), Clock(0.0, 0.0), {}
    for i, place in enumerate(chosen):
        own_cost, module = by_cost[place]
        started = Clock.now()
        up, down = truncate(merge(inputs, module), arguments.rank, arguments.full_svd)
        stored[f"{module}.lora_up.weight"] = up.half().contiguous()
        stored[f"{module}.lora_down.weight"] = down.half().contiguous()
        stored[f"{module}.alpha"] = torch.tensor(float(up.shape[1]))
        taken = started.passed()
        # Its neighbours: the share of the list that `spread` cut it from.
        begin, end = (int(k * len(by_cost) / len(chosen)) for k in (i, i + 1))
        done = done.plus(taken)
        total = total.plus(taken, sum(share for share, _ in by_cost[begin:end]) / own_cost)
    save_file(stored, arguments.out)
    other = STARTED.passed().plus(done, -1)
    total = total.plus(other)
    report = {
        "seconds": round(done.wall, 3),
        "other_seconds": round(other.wall, 3),
        "layers": len(chosen),
        "total_layers": len(modules),
        "total_seconds": round(total.wall, 3),
        "total_cpu_seconds": round(total.cpu, 3),
        "extrapolated": len(chosen) < len(modules),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    with torch.no_grad():
        main()
