#!/usr/bin/env python3
"""Writes small adapters whose effect depends on the base model's weights, those weights, and the effects.

    make_based.py

Needs torch, safetensors, lycoris-lora 4.1.3 and peft 0.21.2. Written beside this script:

based.base.safetensors    float32 `CASE.weight` and `CASE.bias`: the base model of all groups
GROUP.safetensors         the adapter: modules `lora_unet_CASE`, or `oft_unet_CASE` as sd-scripts calls them
GROUP.delta.safetensors   float64 `CASE.weight` and `CASE.bias`: W' - W

A delta is what the library's own module does with the factors as the file rounded them: lycoris-lora's forward pass on
the unit vectors of the layer's input, PEFT's merged weight. Everything runs in float64: the default dtype is that, and
`Tensor.float`, by which lycoris-lora inverts in float32, keeps the type here. What these libraries don't
have is evaluated by its definition instead, in the group `defined`: OFT of sd-scripts, LyCORIS' oldest OFT, GLoRA's old
layout, `set_weight` and `reshape_weight`.

PEFT's butterflies of more than one stage need a CUDA extension; its one function, which lays blocks on a diagonal, is
replaced by torch's.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import peft.tuners.boft.layer as boft_layer
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.tlora import TLoraModule
from peft import BOFTConfig, IA3Config, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
Tensors = dict[str, Tensor]
CONVOLUTIONS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
LINEAR, CONV1D, CONV2D, POINT = (12, 10), (8, 6, 3), (8, 6, 3, 2), (8, 6, 1, 1)
BASE: Tensors = {}


class Group:
    """One adapter file: its tensors and the deltas that they stand for."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.stored: Tensors = {}
        self.deltas: Tensors = {}
        self.metadata: dict[str, str] = {}

    def add(self, case: str, stored: Tensors, weight: Tensor, bias: Tensor | None = None, prefix: str = "lora") -> None:
        for key, tensor in stored.items():
            self.stored[f"{prefix}_unet_{case}.{key}"] = tensor.contiguous()
        self.deltas[f"{case}.weight"] = weight.contiguous()
        if bias is not None:
            self.deltas[f"{case}.bias"] = bias.contiguous()

    def write(self, name: str) -> None:
        save_file(self.stored, HERE / f"{name}.safetensors", self.metadata or None)
        save_file(self.deltas, HERE / f"{name}.delta.safetensors")


def base_layer(case: str, shape: tuple[int, ...], bias: bool = False) -> nn.Module:
    """A layer of the base model, whose float32 weights go into its file."""
    if len(shape) == 2:
        layer = nn.Linear(shape[1], shape[0], bias=bias)
    else:
        layer = CONVOLUTIONS[len(shape) - 3](shape[1], shape[0], shape[2:], bias=bias)
    for name, parameter in layer.named_parameters():
        parameter.copy_((torch.randn_like(parameter) / 2).to(torch.float32))
        BASE[f"{case}.{name}"] = parameter.to(torch.float32)
    return layer


def rounded(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}


# lycoris-lora


def lycoris(
    group: Group,
    case: str,
    kind: type[nn.Module],
    shape: tuple[int, ...],
    spread: float = 0.5,
    strength: float = 1.0,
    **options: object,
) -> None:
    """Random factors in a module of the library, and what its forward pass does beside the layer's own."""
    layer = base_layer(case, shape)
    original = kind(case, layer, 1.0, **options)
    for name, parameter in original.named_parameters():
        if name in ("dora_scale", "rescale"):
            parameter.mul_(1 + torch.rand_like(parameter))
        elif kind is TLoraModule:
            parameter.add_(torch.randn_like(parameter) * 0.1)
        else:
            parameter.copy_(torch.randn_like(parameter) * spread)
    wanted = original.custom_state_dict() or original.state_dict()
    wanted = {name: tensor for name, tensor in wanted.items() if name in kind.weight_list}
    stored = rounded(wanted, group.dtype)

    limit = "alpha" if kind not in (DiagOFTModule, ButterflyOFTModule) else "constraint"
    if "alpha" in stored:
        options[limit] = stored["alpha"].item()
    module = kind(case, layer, strength, **options).eval()
    targets = dict(module.named_parameters())
    for name, tensor in stored.items():
        if name in targets:
            targets[name].copy_(tensor.double())
    columns = math.prod(shape[1:])
    units = torch.eye(columns).reshape(columns, *shape[1:])
    change = module(units) - layer(units)
    group.add(case, stored, change.reshape(columns, shape[0]).T.reshape(shape))


def lycoris_group() -> Group:
    group = Group(torch.float16)
    low = {"lora_dim": 3, "alpha": 2.0}
    for axis, out in (("output", True), ("input", False)):
        dora = {"weight_decompose": True, "wd_on_out": out}
        for name, shape in (("linear", LINEAR), ("conv1d", CONV1D), ("conv2d", CONV2D), ("square", (9, 9))):
            lycoris(group, f"dora_lora_{axis}_{name}", LoConModule, shape, **low, **dora)
            lycoris(group, f"dora_loha_{axis}_{name}", LohaModule, shape, **low, **dora)
        lycoris(group, f"dora_tucker_{axis}", LoConModule, CONV2D, use_tucker=True, **low, **dora)
        for name, shape in (("linear", (16, 12)), ("conv2d", (16, 12, 3, 2))):
            lycoris(group, f"dora_lokr_{axis}_{name}", LokrModule, shape, lora_dim=2, alpha=3.0, factor=4, **dora)
    for name, shape in (("linear", LINEAR), ("conv1d", CONV1D), ("conv2d", CONV2D)):
        for kind, options in {
            "plain": {},
            "constrained": {"constraint": 0.05},
            "loosely_constrained": {"constraint": 30.0},
            "rescaled": {"rescaled": True},
            "both": {"rescaled": True, "constraint": 0.05},
        }.items():
            lycoris(group, f"oft_{kind}_{name}", DiagOFTModule, shape, 0.3, lora_dim=4, **options)
            stages = {"lora_dim": 4} | options
            lycoris(group, f"boft_{kind}_{name}", ButterflyOFTModule, (16, *shape[1:]), 0.3, **stages)
    # n = 2 blocks are one stage, 4 are three, 8 are four.
    for blocks in (2, 4, 8):
        lycoris(group, f"boft_{blocks}_blocks", ButterflyOFTModule, (blocks * 2, 5), 0.3, lora_dim=2)
    for on_input in (False, True):
        for name, shape in (("linear", LINEAR), ("conv2d", CONV2D), ("square", (9, 9))):
            lycoris(group, f"ia3_{name}_{int(on_input)}", IA3Module, shape, train_on_input=on_input)
    for name, shape in (("linear", LINEAR), ("conv1d", CONV1D), ("conv2d", CONV2D), ("point", POINT)):
        lycoris(group, f"glora_{name}", GLoRAModule, shape, **low)
    lycoris(group, "glora_square", GLoRAModule, (6, 6), **low)
    for name, shape in (("linear", LINEAR), ("point", POINT)):
        lycoris(group, f"tlora_{name}", TLoraModule, shape, **low)
    return group


def weak_group() -> Group:
    """Strength 0.6."""
    group = Group(torch.float16)
    for name, shape in (("linear", LINEAR), ("conv2d", CONV2D)):
        for kind, options in {"plain": {}, "both": {"rescaled": True, "constraint": 0.05}}.items():
            turning = {"lora_dim": 4, "strength": 0.6} | options
            lycoris(group, f"weak_oft_{kind}_{name}", DiagOFTModule, shape, 0.3, **turning)
            lycoris(group, f"weak_boft_{kind}_{name}", ButterflyOFTModule, (16, *shape[1:]), 0.3, **turning)
        lycoris(group, f"weak_glora_{name}", GLoRAModule, shape, lora_dim=3, alpha=2.0, strength=0.6)
        lycoris(group, f"weak_ia3_{name}", IA3Module, shape, strength=0.6)
    lycoris(group, "weak_tlora", TLoraModule, LINEAR, lora_dim=3, alpha=2.0, strength=0.6)
    return group


# By definition


def rotation(blocks: Tensor, limit: float | None, sd_scripts: bool = False) -> Tensor:
    """The rotation of blocks, no longer together than `limit`; sd-scripts takes it even if it is 0."""
    q = blocks - blocks.transpose(-1, -2)
    norm = q.norm()
    if sd_scripts:
        q = q * (torch.clamp(norm, max=limit) + 1e-8) / (norm + 1e-8)
    identity = torch.eye(blocks.shape[-1])
    return (identity + q) @ torch.linalg.inv(identity - q)


def turned(weight: Tensor, rotations: Tensor) -> Tensor:
    """Rows of `weight` by the transposed blocks."""
    rows = weight.reshape(len(rotations), rotations.shape[1], -1)
    return torch.einsum("knm,kni->kmi", rotations, rows).reshape(weight.shape)


def definition_group() -> Group:
    group = Group(torch.float32)
    random = lambda *shape: torch.randn(*shape).to(torch.float32)  # noqa: E731

    for case, alpha in (("sd_linear", 0.02), ("sd_zero", 0.0), ("sd_loose", 5.0)):
        weight = base_layer(case, LINEAR).weight
        stored = {"oft_blocks": random(3, 4, 4) * 0.3, "alpha": torch.tensor(alpha, dtype=torch.float32)}
        limit = stored["alpha"].item() * 12
        after = turned(weight, rotation(stored["oft_blocks"].double(), limit, sd_scripts=True))
        group.add(case, stored, after - weight, prefix="oft")

    weight = base_layer("sd_fused", (28, 4)).weight
    stored = {"alpha": torch.tensor(0.02, dtype=torch.float32)}
    after = []
    for index, (start, rows) in enumerate([(0, 4), (4, 4), (8, 4), (12, 16)]):
        blocks = random(2, rows // 2, rows // 2) * 0.3
        stored[f"oft_blocks.{index}"] = blocks
        turn = rotation(blocks.double(), stored["alpha"].item() * rows, sd_scripts=True)
        after.append(turned(weight[start : start + rows], turn))
    group.add("sd_fused", stored, torch.cat(after) - weight, prefix="oft")

    weight = base_layer("oft_diag", LINEAR).weight
    stored = {"oft_diag": rotation(random(3, 4, 4).double() * 0.3, None).to(torch.float32)}
    group.add("oft_diag", stored, turned(weight, stored["oft_diag"].double()) - weight)

    for case, (out, inputs), rank in (("glora_old", LINEAR, 3), ("glora_old_square", (6, 6), 3)):
        weight = base_layer(case, (out, inputs)).weight
        stored = {
            "a1.weight": random(rank, inputs),
            "a2.weight": random(inputs, rank),
            "b1.weight": random(rank, inputs),
            "b2.weight": random(out, rank),
            "alpha": torch.tensor(2.0, dtype=torch.float32),
        }
        a1, a2, b1, b2, _ = (tensor.double() for tensor in stored.values())
        group.add(case, stored, 2.0 / rank * (b2 @ b1 + weight @ a2 @ a1))

    weight = base_layer("set_weight", CONV2D).weight
    stored = {"set_weight": random(*CONV2D)}
    group.add("set_weight", stored, stored["set_weight"].double() - weight)

    small = base_layer("padded", (5, 3, 2, 2)).weight
    weight = torch.zeros(6, 4, 2, 3)
    weight[:5, :3, :, :2] = small
    stored = {
        "lora_down.weight": random(2, 4, 2, 3),
        "lora_up.weight": random(6, 2, 1, 1),
        "dora_scale": random(6, 1, 1, 1).abs(),
        "reshape_weight": torch.tensor(weight.shape),
    }
    down, up = stored["lora_down.weight"].double(), stored["lora_up.weight"].double()
    v = weight + (up.reshape(6, 2) @ down.reshape(2, -1)).reshape(weight.shape)
    norm = v.reshape(6, -1).norm(dim=1).reshape(6, 1, 1, 1)
    group.add("padded", stored, v / norm * stored["dora_scale"].double() - weight)
    return group


# PEFT


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def peft(
    group: Group,
    case: str,
    config: Callable[..., object],
    shape: tuple[int, ...],
    bias: bool = False,
    edit: Callable[[str, Tensor], Tensor] = lambda name, tensor: torch.randn_like(tensor) * 0.3,
    **options: object,
) -> None:
    """Random parameters in a layer that PEFT wraps, and the difference that its merged weight has."""
    layer = base_layer(case, shape, bias)
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(Model(layer), config(target_modules=["layer"], **options))
    stored = {}
    for name, parameter in model.named_parameters():
        if ".default" in name:
            value = edit(name, parameter).to(group.dtype)
            parameter.copy_(value.double())
            suffix = name.split(".layer.")[1].replace(".default", "")
            stored[suffix] = value
    after = dict(model.merge_and_unload().layer.named_parameters())
    group.add(case, stored, after["weight"] - before["weight"], after["bias"] - before["bias"] if bias else None)


def dora_edit(name: str, tensor: Tensor) -> Tensor:
    if "magnitude" in name:
        return tensor * (1 + torch.rand_like(tensor))
    return torch.randn_like(tensor) * 0.5


def write_peft() -> None:
    group = Group(torch.float32)
    near_one = lambda name, tensor: 1 + torch.randn_like(tensor) * 0.3  # noqa: E731
    peft(group, "peft_ia3", IA3Config, LINEAR, True, near_one, feedforward_modules=[])
    peft(group, "peft_ia3_square", IA3Config, (9, 9), True, near_one, feedforward_modules=[])
    peft(group, "peft_ia3_input", IA3Config, LINEAR, False, near_one, feedforward_modules=["layer"])
    peft(group, "peft_ia3_conv", IA3Config, CONV2D, True, near_one, feedforward_modules=[])
    for name, shape in (("linear", LINEAR), ("conv2d", CONV2D)):
        peft(group, f"peft_dora_{name}", LoraConfig, shape, False, dora_edit, r=3, lora_alpha=3, use_dora=True)
    square = (8, 6, 2, 2)
    oft = {"oft_block_size": 2, "r": 0}
    for name, shape in (("linear", LINEAR), ("conv2d", square)):
        peft(group, f"peft_oft_{name}", OFTConfig, shape, **oft)
    peft(group, "peft_oft_shared", OFTConfig, (5, 12), oft_block_size=4, r=0, block_share=True)
    peft(group, "peft_boft_1", BOFTConfig, LINEAR, boft_block_size=5, boft_n_butterfly_factor=1)
    for factors in (2, 3):
        options = {"boft_block_size": 2, "boft_n_butterfly_factor": factors}
        peft(group, f"peft_boft_{factors}", BOFTConfig, (6, 16), **options)
        peft(group, f"peft_boft_conv_{factors}", BOFTConfig, (6, 4, 2, 2), **options)
    group.write("peft")
    for name, options in {
        "neumann_2": {"num_cayley_neumann_terms": 2},
        "neumann_3": {"num_cayley_neumann_terms": 3},
        "neumann_8": {"num_cayley_neumann_terms": 8},
        "exact": {"use_cayley_neumann": False},
        "coft": {"coft": True, "eps": 0.3},
    }.items():
        group = Group(torch.float32)
        options = {"oft_block_size": 4, "r": 0} | options
        peft(group, f"peft_oft_{name}", OFTConfig, (5, 12), **options)
        # Where diffusers has it.
        group.metadata["lora_adapter_metadata"] = json.dumps(OFTConfig(**options).to_dict())
        group.write(f"peft_oft_{name}")


class Blocks:
    """What PEFT's CUDA extension does."""

    @staticmethod
    def forward(stages: Tensor) -> list[Tensor]:
        return [torch.stack([torch.block_diag(*blocks) for blocks in stages])]


def main() -> None:
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    torch.manual_seed(20240229)
    torch.set_default_dtype(torch.float64)
    Tensor.float = lambda tensor: tensor
    boft_layer.get_fbd_cuda = lambda: Blocks
    lycoris_group().write("based")
    definition_group().write("defined")
    write_peft()
    weak_group().write("weak")
    save_file(BASE, HERE / "based.base.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
