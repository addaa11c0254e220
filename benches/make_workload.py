#!/usr/bin/env python3
"""Makes an adapter file with the layers of a real architecture and values like trained ones.

    make_workload.py sdxl lokr OUT.safetensors --dim 16 --factor 8 --seed 1

Which layers there are is data (shapes/ARCH.tsv), and the shapes of the factors follow from the
rules that trainers use. Each ΔW has singular vectors in random directions and a spectrum that
falls off as a power law; exponent and size differ from layer to layer. A layer's values depend on
its name and the seed alone. The algorithm `mixed` takes lora, loha and lokr in turns, and
`checkpoint` writes the layers themselves, without text encoders, biases and norms.

Tensors are made and written one layer at a time, after a header that the shapes alone give.
"""

import argparse
import csv
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPES = Path(__file__).parent / "shapes"
ARCHITECTURES = sorted(path.stem for path in SHAPES.glob("*.tsv"))
# ‖ΔW‖ is about this share of the norm of a weight whose entries have this deviation.
SHARE, WEIGHT_DEVIATION = 0.03, 0.03
# How a checkpoint names the denoiser's layers: sd15.tsv has diffusers' names, the others the original ones.
CHECKPOINT_PREFIX = {"sd15": "unet.", "sdxl": "model.diffusion_model.", "flux": "model.diffusion_model."}

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class Layer:
    """A row of the table of layers."""

    key: str  # dotted, beginning with the model's part: unet, te, te1, te2, te3
    out: int
    inputs: int
    kernel: Shape  # empty for a linear layer
    group: str

    @property
    def name(self) -> str:
        """As kohya's scripts and LyCORIS write it."""
        return "lora_" + self.key.replace(".", "_")

    @property
    def columns(self) -> int:
        return self.inputs * math.prod(self.kernel)

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode())


def read_layers(architecture: str) -> list[Layer]:
    with open(SHAPES / f"{architecture}.tsv", encoding="utf-8", newline="") as file:
        return [
            Layer(
                row["key"],
                int(row["out"]),
                int(row["in"]),
                () if row["kernel"] == "-" else tuple(map(int, row["kernel"].split("x"))),
                row["group"],
            )
            for row in csv.DictReader(file, delimiter="\t")
        ]


def trained(layers: list[Layer], algorithm: str, architecture: str) -> list[Layer]:
    """The layers that a trainer would choose: kohya's LoRA leaves out the convolutions, LyCORIS takes them."""
    groups = {"attn", "te1", "te2"}
    if algorithm != "lora" and architecture != "flux":
        groups |= {"conv", "other"}
    return [
        layer
        for layer in layers
        if layer.group in groups and (algorithm != "lora" or math.prod(layer.kernel) == 1)
    ]


def factorize(size: int, factor: int) -> tuple[int, int]:
    """How LoKr cuts a dimension in two, the smaller part first; LyCORIS' rule."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    middle = next(d for d in divisors if d * d >= size)
    limit = min(size if factor < 0 else factor, middle)
    part = max((d for d in divisors if d <= limit), default=1)
    return min(part, size // part), max(part, size // part)


class Values:
    """Random numbers of one layer."""

    def __init__(self, seed: int, layer: Layer) -> None:
        self.random = np.random.Generator(np.random.PCG64([seed, layer.seed]))

    def normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, dtype=np.float32)

    def spectrum(self, count: int) -> np.ndarray:
        """Falling as a power law, of norm 1; jittered, since trained spectra have no ties."""
        exponent = self.random.uniform(0.5, 1.3)
        values = np.arange(1, count + 1, dtype=np.float32) ** np.float32(-exponent)
        values *= np.abs(1 + 0.05 * self.normal(count))
        return values / np.linalg.norm(values)

    def pair(self, rows: int, rank: int, columns: int, norm: float) -> tuple[np.ndarray, np.ndarray]:
        """Two factors whose product has about this norm.

        Normal numbers in many dimensions are nearly orthogonal, so no QR is needed. Training mixes
        the inner axis: it is rotated, which leaves the product alone.
        """
        true_rank = min(rows, rank, columns)
        root = np.sqrt(np.float32(norm) * self.spectrum(true_rank))
        left = self.normal(rows, true_rank) * (root / np.float32(math.sqrt(rows)))
        right = self.normal(true_rank, columns) * (root / np.float32(math.sqrt(columns)))[:, None]
        mix = np.linalg.qr(self.normal(rank, true_rank))[0]
        return left @ mix.T, mix @ right

    def matrix(self, rows: int, columns: int, norm: float) -> np.ndarray:
        left, right = self.pair(rows, min(rows, columns), columns, norm)
        return left @ right

    def delta_norm(self, layer: Layer) -> float:
        weight_norm = WEIGHT_DEVIATION * math.sqrt(layer.out * layer.columns)
        return SHARE * weight_norm * math.exp(0.5 * self.random.normal())


@dataclass(frozen=True)
class Settings:
    dim: int
    alpha: float
    factor: int


def lora_shapes(layer: Layer, settings: Settings) -> Shapes:
    ones = (1,) * len(layer.kernel)
    return {
        "lora_up.weight": (layer.out, settings.dim, *ones),
        "lora_down.weight": (settings.dim, layer.inputs, *layer.kernel),
    }


def lora_values(values: Values, layer: Layer, shapes: Shapes, norm: float) -> list[np.ndarray]:
    _, rank, *_ = shapes["lora_up.weight"]
    return list(values.pair(layer.out, rank, layer.columns, norm))


def loha_shapes(layer: Layer, settings: Settings) -> Shapes:
    half = {"a": (layer.out, settings.dim), "b": (settings.dim, layer.columns)}
    return {f"hada_w{i}_{side}": shape for i in (1, 2) for side, shape in half.items()}


def loha_values(values: Values, layer: Layer, shapes: Shapes, norm: float) -> list[np.ndarray]:
    """‖A ∘ B‖ ≈ ‖A‖‖B‖/√mn. Training starts w1 at entries of about .1; the second half has the rest."""
    rank = shapes["hada_w1_a"][1]
    first = 0.1 * math.sqrt(layer.out * layer.columns)
    second = norm / 0.1
    return [x for half in (first, second) for x in values.pair(layer.out, rank, layer.columns, half)]


def lokr_shapes(layer: Layer, settings: Settings) -> Shapes:
    a, b = factorize(layer.out, settings.factor)
    c, d = factorize(layer.inputs, settings.factor)
    shapes: Shapes = {"lokr_w1": (a, c)}
    if settings.dim < max(b, d) / 2:
        shapes["lokr_w2_a"] = (b, settings.dim)
        shapes["lokr_w2_b"] = (settings.dim, d * math.prod(layer.kernel))
    else:
        shapes["lokr_w2"] = (b, d, *layer.kernel)
    return shapes


def lokr_values(values: Values, layer: Layer, shapes: Shapes, norm: float) -> list[np.ndarray]:
    """‖A ⊗ B‖ = ‖A‖‖B‖"""
    a, c = shapes["lokr_w1"]
    outer = 0.3 * math.sqrt(a * c)
    w1, inner = values.matrix(a, c, outer), norm / outer
    if "lokr_w2" in shapes:
        rows, *columns = shapes["lokr_w2"]
        return [w1, values.matrix(rows, math.prod(columns), inner)]
    (rows, rank), (_, columns) = shapes["lokr_w2_a"], shapes["lokr_w2_b"]
    return [w1, *values.pair(rows, rank, columns, inner)]


@dataclass(frozen=True)
class Family:
    module: str  # of the trainer, for the metadata
    shapes: Callable[[Layer, Settings], Shapes]
    # In the order of the shapes, for a ΔW of this norm before alpha/rank.
    values: Callable[[Values, Layer, Shapes, float], list[np.ndarray]]


FAMILIES = {
    "lora": Family("networks.lora", lora_shapes, lora_values),
    "loha": Family("lycoris.kohya", loha_shapes, loha_values),
    "lokr": Family("lycoris.kohya", lokr_shapes, lokr_values),
}


def family_of(algorithm: str, layer: Layer) -> Family:
    if algorithm == "mixed":
        algorithm = list(FAMILIES)[layer.seed % len(FAMILIES)]
    return FAMILIES[algorithm]


def layer_alpha(shapes: Shapes, settings: Settings) -> float:
    """LyCORIS writes the rank, so that the scale is 1, where both of LoKr's factors are whole."""
    return settings.dim if "lokr_w2" in shapes else settings.alpha


def write_file(path: Path, metadata: dict[str, str], shapes: Shapes, arrays: Iterator[np.ndarray]) -> None:
    """A float16 safetensors file; the arrays come in the order of the shapes."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, shape), array in zip(shapes.items(), arrays, strict=True):
            if array.size != math.prod(shape):
                raise ValueError(f"{name}: {array.shape} for {shape}")
            file.write(np.ascontiguousarray(array, dtype="<f2"))
    unfinished.replace(path)


def write_adapter(path: Path, architecture: str, algorithm: str, settings: Settings, seed: int) -> None:
    # Trained files come from safetensors' own writer, which sorts names.
    layers = sorted(trained(read_layers(architecture), algorithm, architecture), key=lambda layer: layer.name)
    planned = [(layer, family_of(algorithm, layer)) for layer in layers]
    plan = [(layer, family, family.shapes(layer, settings)) for layer, family in planned]

    def arrays() -> Iterator[np.ndarray]:
        for layer, family, shapes in plan:
            alpha = layer_alpha(shapes, settings)
            values = Values(seed, layer)
            yield np.float32(alpha)
            yield from family.values(values, layer, shapes, values.delta_norm(layer) * settings.dim / alpha)

    tensors: Shapes = {}
    for layer, _, shapes in plan:
        tensors[f"{layer.name}.alpha"] = ()
        tensors |= {f"{layer.name}.{suffix}": shape for suffix, shape in shapes.items()}
    arguments = {"algo": algorithm} | ({"factor": str(settings.factor)} if algorithm == "lokr" else {})
    metadata = {
        "ss_network_module": FAMILIES.get(algorithm, FAMILIES["lokr"]).module,
        "ss_network_dim": str(settings.dim),
        "ss_network_alpha": str(settings.alpha),
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": f"{architecture}-{algorithm}-{seed}",
        "ss_sd_model_name": "random numbers",
    }
    write_file(path, metadata, tensors, arrays())


def write_checkpoint(path: Path, architecture: str, seed: int) -> None:
    """Weights cut from one block of random numbers, each from another place: billions take too long."""
    layers = [layer for layer in read_layers(architecture) if layer.key.startswith("unet.")]
    random = np.random.Generator(np.random.PCG64(seed))
    block = (WEIGHT_DEVIATION * random.standard_normal(1 << 22, dtype=np.float32)).astype(np.float16)

    def arrays() -> Iterator[np.ndarray]:
        for layer in layers:
            turned = np.roll(block, layer.seed % block.size)
            yield np.resize(turned, layer.out * layer.columns)

    prefix = CHECKPOINT_PREFIX[architecture]
    shapes = {
        f"{prefix}{layer.key.removeprefix('unet.')}.weight": (layer.out, layer.inputs, *layer.kernel)
        for layer in layers
    }
    write_file(path, {"format": "pt"}, shapes, arrays())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("algorithm", choices=[*FAMILIES, "mixed", "checkpoint"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dim", type=int, default=16, help="the rank (default: 16)")
    parser.add_argument("--alpha", type=float, help="default: half the rank")
    parser.add_argument("--factor", type=int, default=-1, help="of lokr; -1, the default, cuts near the root")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.algorithm == "checkpoint":
        write_checkpoint(arguments.out, arguments.architecture, arguments.seed)
    else:
        alpha = arguments.dim / 2 if arguments.alpha is None else arguments.alpha
        settings = Settings(arguments.dim, alpha, arguments.factor)
        write_adapter(arguments.out, arguments.architecture, arguments.algorithm, settings, arguments.seed)


if __name__ == "__main__":
    main()
