#!/usr/bin/env python3
"""Writes small adapters of every format and the weight changes that they stand for.

    make_golden.py

Needs torch, safetensors and lycoris-lora 4.1.3. Written beside this script:

GROUP.safetensors        modules `lora_unet_CASE` of the library's own classes, random factors
GROUP.delta.safetensors  float64 `CASE.weight` and `CASE.bias`: what each module adds to its layer
vectors.json             vectors whose inputs a formula gives, see `vector_tensor`

A delta is measured, not derived: a fresh library module is loaded with the factors as the file
rounded them, put in float64 on a layer of zeros, and run on the unit vectors of the layer's input.
The library's merge functions are not used, because they apply alpha/rank twice to LoHa and LoKr.
What the library cannot run, or reads in its own way, is measured so:

- rs-LoRA: the stored alpha already holds the square root, so an ordinary module reads it.
- DyLoRA: its own forward draws a random rank, so a LoCon module reads the stored factors.
- A missing alpha: the library refuses; every other reader takes alpha/rank = 1, so alpha = rank here.
- LoKr with both factors full: the stored alpha is the configured rank, which overflows float16 in
  `full_matrix_conv2d`; it changes nothing, here as there.
- A bias beside a low-rank weight: the library never pairs them; the delta is the stored `diff_b`.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from lycoris.modules.dylora import DyLoraModule
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
Tensors = dict[str, Tensor]
CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]


@dataclass
class Case:
    """One module: its class, its layer's weight shape and the library's options."""

    kind: type[nn.Module]
    shape: tuple[int, ...]
    options: dict[str, object] = field(default_factory=dict)
    bias: bool = False
    reader: type[nn.Module] | None = None
    edit: Callable[[Tensors], None] = lambda stored: None

    def layer(self) -> nn.Module:
        """The layer that the module sits on, all zeros."""
        if self.kind is NormModule:
            layer = self.options["norm"](self.shape[0])
        elif len(self.shape) == 2:
            layer = nn.Linear(self.shape[1], self.shape[0], bias=self.bias)
        else:
            convolution = CONVOLUTIONS[len(self.shape) - 3]
            layer = convolution(self.shape[1], self.shape[0], self.shape[2:], bias=self.bias)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        return layer

    def stored(self, dtype: torch.dtype) -> Tensors:
        """What a trainer writes, with random values."""
        module = self.kind("case", self.layer(), 1.0, **self.options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter) / 2)
        if self.kind is NormModule:
            state = {name: parameter for name, parameter in module.named_parameters()}
        else:
            state = module.custom_state_dict()
        stored = {name: tensor.detach().to(dtype).contiguous() for name, tensor in state.items()}
        self.edit(stored)
        return stored

    def delta(self, stored: Tensors) -> Tensors:
        """What the stored factors add to the layer, as {"weight": …, "bias": …}."""
        factors = {name: tensor.double() for name, tensor in stored.items()}
        bias = factors.pop("diff_b", None) if self.kind is not FullModule else None
        alpha = factors.pop("alpha", None)
        options = self.options | {"rs_lora": False}
        options["alpha"] = None if alpha is None else alpha.item()
        kind = self.reader or self.kind
        layer = self.layer().double()
        module = kind("case", layer, 1.0, **options).double().eval()
        targets = dict(module.named_parameters())
        renamed = {"diff": "weight", "diff_b": "bias"} if kind is FullModule else {}
        assert len(factors) == len(targets)
        for name, factor in factors.items():
            target = targets[renamed.get(name, name)]
            target.copy_(factor.reshape(target.shape))
        delta = norm_effect(module, layer) if kind is NormModule else effect(module, self.shape)
        if bias is not None:
            delta["bias"] = bias
        return delta


def effect(module: nn.Module, shape: tuple[int, ...]) -> Tensors:
    """The module's output for each unit vector of its layer's input, one kernel window wide."""
    columns = math.prod(shape[1:])
    units = torch.eye(columns, dtype=torch.float64).reshape(columns, *shape[1:])
    bias = module(torch.zeros_like(units[:1])).flatten()
    weight = (module(units).reshape(columns, shape[0]) - bias).T.reshape(shape)
    delta = {"weight": weight.contiguous()}
    if bias.any():
        delta["bias"] = bias
    return delta


def norm_effect(module: nn.Module, layer: nn.Module) -> Tensors:
    """A normalised x times the weight plus the bias: x and −x tell the two apart."""
    channels = layer.weight.shape[0]
    x = torch.randn(1, channels, dtype=torch.float64)
    plus, minus = module(x), module(-x)
    if isinstance(layer, nn.LayerNorm):
        normalised = F.layer_norm(x, (channels,), eps=layer.eps)
    else:
        normalised = F.group_norm(x, layer.num_groups, eps=layer.eps)
    weight, bias = (plus - minus) / 2 / normalised, (plus + minus) / 2
    return {"weight": weight.flatten(), "bias": bias.flatten()}


def without_alpha(stored: Tensors) -> None:
    del stored["alpha"]


def with_alpha(alpha: Tensor) -> Callable[[Tensors], None]:
    return lambda stored: stored.update(alpha=alpha)


def with_bias(stored: Tensors) -> None:
    up = stored["lora_up.weight"]
    stored["diff_b"] = torch.randn(up.shape[0]).to(up.dtype)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(2, channels)


def low_rank(
    kind: type[nn.Module],
    shape: tuple[int, ...],
    edit: Callable[[Tensors], None] = lambda stored: None,
    reader: type[nn.Module] | None = None,
    **options: object,
) -> Case:
    return Case(kind, shape, {"lora_dim": 3, "alpha": 2.0} | options, reader=reader, edit=edit)


def lokr(shape: tuple[int, ...], **options: object) -> Case:
    return low_rank(LokrModule, shape, **({"lora_dim": 2, "alpha": 3.0, "factor": 3} | options))


LINEAR, CONV1D, CONV2D, CONV3D = (12, 10), (8, 6, 3), (8, 6, 3, 5), (8, 6, 2, 3, 2)
POINT, SQUARE = (8, 6, 1, 1), (8, 6, 3, 3)
DYLORA = {"lora_dim": 4, "alpha": 3.0, "block_size": 2, "reader": LoConModule}

LORA = {
    "linear": low_rank(LoConModule, LINEAR),
    "linear_scaled_up": low_rank(LoConModule, LINEAR, alpha=12.5),
    "linear_rank1": low_rank(LoConModule, LINEAR, lora_dim=1, alpha=0.75),
    "linear_no_alpha": low_rank(LoConModule, LINEAR, without_alpha),
    "linear_alpha_integer": low_rank(LoConModule, LINEAR, with_alpha(torch.tensor(3))),
    "linear_alpha_vector": low_rank(LoConModule, LINEAR, with_alpha(torch.tensor([2.0]))),
    "linear_with_bias": low_rank(LoConModule, LINEAR, with_bias),
    "conv1d": low_rank(LoConModule, CONV1D),
    "conv2d_1x1": low_rank(LoConModule, POINT),
    "conv2d_3x3": low_rank(LoConModule, SQUARE),
    "conv2d_3x5": low_rank(LoConModule, CONV2D),
    "conv3d": low_rank(LoConModule, CONV3D),
    "tucker_conv1d": low_rank(LoConModule, CONV1D, use_tucker=True),
    "tucker_conv2d": low_rank(LoConModule, CONV2D, use_tucker=True),
    "tucker_conv3d": low_rank(LoConModule, CONV3D, use_tucker=True),
    "rslora_linear": low_rank(LoConModule, LINEAR, rs_lora=True),
    "rslora_conv2d": low_rank(LoConModule, SQUARE, rs_lora=True),
    "dylora_linear": low_rank(DyLoraModule, LINEAR, **DYLORA),
    "dylora_conv2d": low_rank(DyLoraModule, SQUARE, **DYLORA),
}

LOHA = {
    "linear": low_rank(LohaModule, LINEAR),
    "linear_no_alpha": low_rank(LohaModule, LINEAR, without_alpha),
    "rslora_linear": low_rank(LohaModule, LINEAR, rs_lora=True),
    "conv1d": low_rank(LohaModule, CONV1D),
    "conv2d_1x1": low_rank(LohaModule, POINT),
    "conv2d_3x3": low_rank(LohaModule, SQUARE),
    "conv2d_3x5": low_rank(LohaModule, CONV2D),
    "conv3d": low_rank(LohaModule, CONV3D),
    "tucker_conv1d": low_rank(LohaModule, CONV1D, use_tucker=True),
    "tucker_conv2d": low_rank(LohaModule, CONV2D, use_tucker=True),
    "tucker_conv3d": low_rank(LohaModule, CONV3D, use_tucker=True),
}

# w1_w2: the sizes decide. A factor is decomposed if the rank is under half its longer side.
LOKR_PAIRS = {
    "full_full": ((16, 12), {"lora_dim": 8}),
    "full_low": ((16, 12), {}),
    "low_full": (
        (16, 12),
        {"lora_dim": 3, "alpha": 2.0, "factor": 2}
        | {"decompose_both": True, "unbalanced_factorization": True},
    ),
    "low_low": ((25, 20), {"decompose_both": True, "factor": 5}),
}
KERNELS = {
    "linear": (),
    "conv1d": (3,),
    "conv2d_1x1": (1, 1),
    "conv2d": (3, 2),
    "conv3d": (2, 1, 3),
}
LOKR = {
    f"{pair}_{layer}": lokr((*size, *kernel), **options)
    for pair, (size, options) in LOKR_PAIRS.items()
    for layer, kernel in KERNELS.items()
} | {
    "tucker_conv1d": lokr((16, 12, 3), use_tucker=True),
    "tucker_conv2d": lokr((16, 12, 3, 2), use_tucker=True),
    "tucker_conv3d": lokr((16, 12, 2, 1, 3), use_tucker=True),
    "tucker_low_low_conv2d": lokr((25, 20, 3, 2), use_tucker=True, decompose_both=True, factor=5),
    "unbalanced_linear": lokr(LINEAR, unbalanced_factorization=True, lora_dim=1),
    "unbalanced_conv2d": lokr((16, 12, 3, 2), unbalanced_factorization=True),
    "uneven_linear": lokr((15, 14), factor=-1),
    "prime_linear": lokr((7, 11)),
    "rslora_linear": lokr((16, 12), rs_lora=True),
    "no_alpha_linear": lokr((16, 12), edit=without_alpha),
    "full_matrix_linear": lokr(LINEAR, full_matrix=True, lora_dim=10_000),
    "full_matrix_conv2d": lokr(SQUARE, full_matrix=True, lora_dim=100_000),
}

DIRECT = {
    "full_linear": Case(FullModule, LINEAR),
    "full_linear_bias": Case(FullModule, LINEAR, bias=True),
    "full_conv1d": Case(FullModule, CONV1D),
    "full_conv2d_bias": Case(FullModule, CONV2D, bias=True),
    "full_conv3d": Case(FullModule, CONV3D),
    "layer_norm": Case(NormModule, (12,), {"norm": nn.LayerNorm}),
    "group_norm": Case(NormModule, (12,), {"norm": group_norm}),
}

GROUPS = {
    "lora": (LORA, torch.float16),
    "loha": (LOHA, torch.bfloat16),
    "lokr": (LOKR, torch.float16),
    "direct": (DIRECT, torch.float32),
}


def vector_tensor(seed: int, shape: list[int]) -> Tensor:
    """Element i in row-major order is (((73·i + 31·seed + 17) mod 101) − 50)/64."""
    i = torch.arange(math.prod(shape))
    return (((73 * i + 31 * seed + 17) % 101 - 50).double() / 64).reshape(shape)


@dataclass
class Vector:
    """Tensors as {name: (seed, shape)} and the definition of their effect, without the library."""

    name: str
    alpha: float
    scale: float
    shape: list[int]
    tensors: dict[str, tuple[int, list[int]]]
    formula: Callable[..., Tensor]

    def evaluate(self) -> dict[str, object]:
        values = (vector_tensor(seed, shape) for seed, shape in self.tensors.values())
        delta = (self.scale * self.formula(*values)).reshape(self.shape)
        return {
            "name": self.name,
            "tensors": {
                name: {"seed": seed, "shape": shape} for name, (seed, shape) in self.tensors.items()
            },
            "alpha": self.alpha,
            "weight_shape": self.shape,
            "sum": delta.sum().item(),
            "norm": delta.norm().item(),
            "first": delta.flatten()[:4].tolist(),
        }


def kron(a: Tensor, b: Tensor) -> Tensor:
    """(l, m) and (p, q, *k) to (l·p, m·q, *k)."""
    return torch.einsum("lm,pq...->lpmq...", a, b).flatten(0, 1).flatten(1, 2)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("ij...,io,jc->oc...", core, a, b)


VECTORS = [
    Vector(
        "lora", 1, 1 / 2, [4, 3],
        {"lora_down.weight": (1, [2, 3]), "lora_up.weight": (2, [4, 2])},
        lambda down, up: up @ down,
    ),
    Vector(
        "lora_tucker", 1, 1 / 2, [3, 2, 2, 3],
        {
            "lora_down.weight": (1, [2, 2, 1, 1]),
            "lora_mid.weight": (2, [2, 2, 2, 3]),
            "lora_up.weight": (3, [3, 2, 1, 1]),
        },
        lambda down, mid, up: tucker(mid, up.flatten(1).T, down.flatten(1)),
    ),
    Vector(
        "loha", 1, 1 / 2, [4, 3],
        {
            "hada_w1_a": (1, [4, 2]), "hada_w1_b": (2, [2, 3]),
            "hada_w2_a": (3, [4, 2]), "hada_w2_b": (4, [2, 3]),
        },
        lambda a1, b1, a2, b2: (a1 @ b1) * (a2 @ b2),
    ),
    Vector(
        "loha_tucker", 1, 1 / 2, [3, 2, 3],
        {
            "hada_w1_a": (1, [2, 3]), "hada_w1_b": (2, [2, 2]),
            "hada_w2_a": (3, [2, 3]), "hada_w2_b": (4, [2, 2]),
            "hada_t1": (5, [2, 2, 3]), "hada_t2": (6, [2, 2, 3]),
        },
        lambda a1, b1, a2, b2, t1, t2: tucker(t1, a1, b1) * tucker(t2, a2, b2),
    ),
    Vector(
        "lokr_full_full", 7, 1, [4, 6],
        {"lokr_w1": (1, [2, 3]), "lokr_w2": (2, [2, 2])},
        kron,
    ),
    Vector(
        "lokr_conv_w2_decomposed", 1, 1 / 2, [6, 4, 2, 2],
        {"lokr_w1": (1, [2, 2]), "lokr_w2_a": (2, [3, 2]), "lokr_w2_b": (3, [2, 8])},
        lambda w1, a, b: kron(w1, (a @ b).reshape(3, 2, 2, 2)),
    ),
    Vector(
        "lokr_conv_tucker", 1, 1 / 2, [6, 4, 2, 2],
        {
            "lokr_w1": (1, [2, 2]), "lokr_w2_a": (2, [2, 3]),
            "lokr_w2_b": (3, [2, 2]), "lokr_t2": (4, [2, 2, 2, 2]),
        },
        lambda w1, a, b, t: kron(w1, tucker(t, a, b)),
    ),
    Vector(
        "lokr_conv1d_w2_full", 5, 1, [6, 4, 3],
        {"lokr_w1": (1, [2, 2]), "lokr_w2": (2, [3, 2, 3])},
        kron,
    ),
    Vector(
        "lokr_both_decomposed", 1, 1 / 2, [4, 6],
        {
            "lokr_w1_a": (1, [2, 2]), "lokr_w1_b": (2, [2, 3]),
            "lokr_w2_a": (3, [2, 2]), "lokr_w2_b": (4, [2, 2]),
        },
        lambda a1, b1, a2, b2: kron(a1 @ b1, a2 @ b2),
    ),
]  # fmt: skip


def main() -> None:
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    torch.manual_seed(20240229)
    for group, (cases, dtype) in GROUPS.items():
        stored, deltas = {}, {}
        for name, case in cases.items():
            tensors = case.stored(dtype)
            stored |= {f"lora_unet_{name}.{key}": tensor for key, tensor in tensors.items()}
            deltas |= {f"{name}.{key}": tensor for key, tensor in case.delta(tensors).items()}
        save_file(stored, HERE / f"{group}.safetensors")
        save_file(deltas, HERE / f"{group}.delta.safetensors")
    vectors = [vector.evaluate() for vector in VECTORS]
    with open(HERE / "vectors.json", "w", encoding="utf-8") as file:
        json.dump(vectors, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
