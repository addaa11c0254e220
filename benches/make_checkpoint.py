"""Makes a checkpoint of random weights with SDXL's layers: python make_checkpoint.py shapes/sdxl.tsv OUT [DTYPE].

What no adapter changes is one tensor, so that the file is as large as a real one.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

# The numbers of a whole SDXL file, 6.94 GB in 16 bits: besides these layers, embeddings, norms and the VAE.
NUMBERS = 3_470_000_000
SIZES = {"F16": 2, "BF16": 2, "F8_E4M3": 1, "F32": 4}


def layers(path: Path) -> list[tuple[str, list[int]]]:
    """The weights by their names in a checkpoint."""
    prefixes = {
        "unet": "model.diffusion_model",
        "te1": "conditioner.embedders.0.transformer",
        "te2": "conditioner.embedders.1.model",
    }
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            component, name = row["key"].split(".", 1)
            kernel = [] if row["kernel"] == "-" else [int(k) for k in row["kernel"].split("x")]
            found.append((f"{prefixes[component]}.{name}", [int(row["out"]), int(row["in"]), *kernel]))
    return found


def main() -> None:
    shapes, output = Path(sys.argv[1]), Path(sys.argv[2])
    dtype = sys.argv[3] if len(sys.argv) > 3 else "F16"
    size = SIZES[dtype]
    tensors = []
    for name, shape in layers(shapes):
        tensors += [(f"{name}.bias", shape[:1]), (f"{name}.weight", shape)]
    tensors.append(("rest", [NUMBERS - sum(int(np.prod(shape)) for _, shape in tensors)]))
    header, end = {}, 0
    for name, shape in tensors:
        start, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # The same million numbers again and again: a file system that shares blocks would see it, none in use does.
    numbers = np.random.default_rng(0).normal(0, 0.03, 1 << 20).astype("f4")
    if dtype == "F8_E4M3":
        block = (np.random.default_rng(0).integers(0, 256, 1 << 20, dtype="u1") & 0xBF).tobytes()
    elif dtype == "BF16":
        block = (numbers.view("u4") >> 16).astype("u2").tobytes()
    else:
        block = numbers.astype({"F16": "f2", "F32": "f4"}[dtype]).tobytes()
    with output.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while end > 0:
            file.write(block[:end])
            end -= len(block)


if __name__ == "__main__":
    main()
