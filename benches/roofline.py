#!/usr/bin/env python3
"""What a merge must at least read, write and multiply, from the headers of its inputs and its output.

    roofline.py OUT.safetensors IN.safetensors...

Bytes are those of the files. Multiplications and additions are those of the large products that the
factored way needs: Gram matrices of the joint factors, the leading vectors of the core, the factors
that are stored, and the certificate. Layers whose terms are lifted (LoHa, and mixed families) count
with their lifted rank.
"""

import json
import math
import struct
import sys
from collections import defaultdict
from pathlib import Path

# Products with the core that finding its leading vectors takes, and how many vectors beside the wanted ones.
PASSES, BESIDE = 6, 1.5


def layers(path: str) -> dict[str, dict[str, list[int]]]:
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    out: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for key, entry in header.items():
        if key != "__metadata__":
            module, suffix = key.split(".", 1)
            out[module][suffix] = [entry["shape"][0], math.prod(entry["shape"][1:])] if entry["shape"] else []
    return out


def rank(tensors: dict[str, list[int]]) -> tuple[int, int, int, bool]:
    """Rows, columns, lifted rank, and whether it is a LoKr."""
    if "lora_up.weight" in tensors:
        return tensors["lora_up.weight"][0], tensors["lora_down.weight"][1], tensors["lora_down.weight"][0], False
    if "hada_w1_a" in tensors:
        r = tensors["hada_w1_b"][0]
        return tensors["hada_w1_a"][0], tensors["hada_w1_b"][1], r * r, False
    if "lokr_w1" in tensors:
        a, c = tensors["lokr_w1"]
        if "lokr_w2_b" in tensors:
            r = tensors["lokr_w2_b"][0]
            return a * tensors["lokr_w2_a"][0], c * tensors["lokr_w2_b"][1], r, True
        b, d = tensors["lokr_w2"]
        return a * b, c * d, min(b, d), True
    return 0, 0, 0, False


def products(inputs: list[dict[str, list[int]]], output: dict[str, list[int]], a: int, c: int) -> float:
    shapes = [rank(tensors) for tensors in inputs]
    (m, n, _, _), joint = shapes[0], sum(shape[2] for shape in shapes)
    stored = rank(output)
    if not m:
        return 0.0
    if all(shape[3] for shape in shapes):
        sides, core = m / a + n / c, (a * joint, c * joint)
        gram = 2 * sides * joint**2
        if stored[3]:
            return gram + 2 * m / a * (joint * stored[2] + stored[2] ** 2)
        leading = PASSES * 2 * core[0] * core[1] * BESIDE * stored[2]
        return gram + leading + 2 * (m + n) * stored[2] * (2 * joint + stored[2])
    gram, leading = 2 * (m + n) * joint**2, 20 * joint**3
    return gram + leading + 2 * (m + n) * stored[2] * (2 * joint + stored[2])


def main() -> None:
    output, *inputs = sys.argv[1:]
    made, given = layers(output), [layers(path) for path in inputs]
    total = 0.0
    for module, tensors in made.items():
        here = [layer[module] for layer in given if module in layer]
        a, c = next((t["lokr_w1"] for t in here if "lokr_w1" in t), [1, 1])
        total += products(here, tensors, a, c)
    read, written = sum(Path(path).stat().st_size for path in inputs), Path(output).stat().st_size
    print(f"{len(made)} layers, {read / 1e6:.0f} MB read, {written / 1e6:.0f} MB written, {total / 1e9:.0f} Gflop")


if __name__ == "__main__":
    main()
