#!/usr/bin/env python3
"""Writes small weight changes and what other programs' entrywise methods make of them.

    make_strategies_entries.py PCB TALL

Needs torch, safetensors, peft 0.21.2 and mergekit 0.1.5, and checkouts of the authors' code of two methods:
https://github.com/duguodong7/pcb-merging and https://github.com/nik-dim/tall_masks. Written to strategies/ beside
this script:

entries.models.safetensors  float64 `MODEL`: the weight changes, a matrix with entries of several sizes each
entries.safetensors         float64 `CASE`: the merges
entries.json                for each case the strategy, its settings and the models' weights

mergekit merges onto a base of zeros, with every case as a tensor group of its own; PEFT's functions of
`peft.utils.merge_utils` are those that its `*_svd` combinations call on the layers' weight changes. What both do at
random they do here with the masks that lycomerge draws: `torch.bernoulli` is replaced by the numbers of splitmix64 that
lycomerge compares with the chances, so that all the rest of a method is theirs. The two checkouts' functions are taken
out of their files, which run experiments when they are imported.

Not here, because lycomerge differs on purpose: negative weights with mergekit's `normalize`, which divides by their sum,
and what its floors do to small entries (see src/merge/strategy/entrywise).
"""

import ast
import hashlib
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import torch
from mergekit.merge_methods import sce
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.generalized_task_arithmetic import ConsensusMethod, GeneralizedTaskArithmeticMerge
from mergekit.merge_methods.registry import get
from peft.utils import merge_utils
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent / "strategies"
LAYER = "lora_unet_layer"
SHAPE = (13, 11)
MASK64 = (1 << 64) - 1


def scrambled(seed: int, index: int) -> int:
    """The random bits `index` of a stream, by splitmix64."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


class Bernoulli:
    """`torch.bernoulli` of one merge: the models' masks one after the other."""

    def __init__(self, seed: int) -> None:
        layer = struct.unpack("<Q", hashlib.sha256(LAYER.encode()).digest()[:8])[0]
        self.seed = scrambled(layer, seed)
        self.model = 0

    def __call__(self, chances: Tensor) -> Tensor:
        stream = scrambled(self.seed, self.model)
        self.model += 1
        numbers = [(scrambled(stream, i) >> 11) / (1 << 53) for i in range(chances.numel())]
        drawn = torch.tensor(numbers, dtype=torch.float64).reshape(chances.shape)
        return (drawn < chances.double()).to(chances.dtype)


def functions(path: Path, names: list[str]) -> SimpleNamespace:
    """Functions of a file that can't be imported."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope = {"torch": torch, "Optional": Optional, "log_wandb_mask_sparsity": lambda mask: None}
    exec(compile(tree, str(path), "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def models() -> dict[str, Tensor]:
    """A common part, and a part of each model's own of another size."""
    torch.manual_seed(8)
    common = torch.randn(SHAPE, dtype=torch.float64)
    return {f"model{i}": common + size * torch.randn(SHAPE, dtype=torch.float64) for i, size in enumerate([1.0, 0.6, 1.7])}


class Cases:
    """What is merged so far."""

    def __init__(self) -> None:
        self.models = models()
        self.merges: dict[str, Tensor] = {}
        self.table: list[dict[str, object]] = []

    def add(self, strategy: str, weights: list[float], settings: dict[str, object], merged: Tensor) -> None:
        name = f"{strategy}.{len(self.table)}"
        said = {key: str(value).lower() for key, value in settings.items()}
        self.table.append({"name": name, "strategy": strategy, "weights": weights, "settings": said})
        self.merges[name] = merged.double().contiguous().clone()

    def tensors(self) -> list[Tensor]:
        return list(self.models.values())

    def mergekit(self, name: str, weights: list[float], count: bool = False, **settings: object) -> None:
        """A merge by the method of mergekit's registry; signs by `count`, which only its code has, if asked."""
        method = get(name)
        assert isinstance(method, GeneralizedTaskArithmeticMerge)
        if count:
            fields = {field: getattr(method, field) for field in type(method).__dataclass_fields__}
            method = GeneralizedTaskArithmeticMerge(**fields | {"consensus_method": ConsensusMethod.count})
        parameters = {spec.name: spec.default for spec in method.spec.parameters if spec.name != "weight"}
        parameters |= {key: value for key, value in settings.items() if key != "seed"}
        ids = ["base", *self.models]
        for key in ("density", "gamma", "epsilon"):
            if key in parameters:
                parameters[key] = dict.fromkeys(self.models, parameters[key])
        parameters["weight"] = dict(zip(self.models, weights))
        group = TensorGroup.from_tensors([torch.zeros(SHAPE, dtype=torch.float64), *self.tensors()], ids=ids, base_index=0)
        torch.bernoulli = Bernoulli(int(settings.get("seed", 0)))
        if count:
            settings["majority_sign_method"] = "count"
        self.add(name, weights, settings, method.merge_group(group, **parameters))

    def peft(self, name: str, weights: list[float], **settings: object) -> None:
        """A merge by the function that PEFT's `name`_svd calls."""
        torch.bernoulli = Bernoulli(int(settings.get("seed", 0)))
        parameters = {key: value for key, value in settings.items() if key != "seed"}
        merged = getattr(merge_utils, name)(self.tensors(), torch.tensor(weights, dtype=torch.float64), **parameters)
        self.add(f"{name}_svd", weights, settings, merged)
        if name == "magnitude_prune":
            self.add(name, weights, settings, merged)


def main() -> None:
    pcb = functions(Path(sys.argv[1]) / "pcb-merging.py", ["normalize", "clamp", "act", "PCB_merge"])
    tall = functions(Path(sys.argv[2]) / "src/utils/tallmask_utils.py", ["generate_task_masks"])
    cases = Cases()
    ones, mixed, negative = [1.0, 1.0, 1.0], [0.7, 1.3, 0.4], [0.7, -1.3, 0.4]
    for density in (0.2, 0.53, 1.0):
        cases.mergekit("ties", mixed, density=density)
        cases.mergekit("breadcrumbs", mixed, density=density)
        cases.mergekit("breadcrumbs_ties", mixed, density=density, gamma=0.1)
        cases.mergekit("dare_linear", mixed, density=density, seed=3)
        cases.mergekit("dare_ties", mixed, density=density, seed=4)
        cases.mergekit("della", mixed, density=density, seed=5)
        cases.mergekit("della_linear", mixed, density=density, seed=6, epsilon=0.1)
        for name in ("ties", "dare_linear", "dare_ties", "magnitude_prune"):
            for weights in (mixed, negative):
                cases.peft(name, weights, density=density, **({"seed": 9} if "dare" in name else {}))
    cases.mergekit("ties", mixed, density=0.4, count=True)
    cases.mergekit("ties", negative, density=0.4, normalize=False, rescale=True)
    cases.mergekit("ties", ones, density=0.3, **{"lambda": 1.7})
    cases.mergekit("ties", ones, density=0.0001)
    cases.mergekit("breadcrumbs", negative, density=0.3, gamma=0.2, rescale=True, normalize=False)
    cases.mergekit("breadcrumbs", ones, density=0.95, gamma=0.4)
    cases.mergekit("breadcrumbs", ones, density=0.5, gamma=0.0)
    cases.mergekit("dare_linear", negative, density=0.3, seed=7, rescale=False)
    cases.mergekit("dare_linear", mixed, density=0.3, seed=7, normalize=True)
    cases.mergekit("dare_ties", negative, density=0.6, count=True)
    cases.peft("ties", mixed, density=0.5, majority_sign_method="frequency")
    cases.peft("dare_ties", negative, density=0.5, majority_sign_method="frequency")

    group = SimpleNamespace(
        base=SimpleNamespace(tensor=torch.zeros(SHAPE, dtype=torch.float64)),
        non_base=[SimpleNamespace(tensor=tensor) for tensor in cases.tensors()],
    )
    for select_topk in (1.0, 0.5, 0.07):
        merged = sce.sce_merge.implementation(group, select_topk=select_topk)
        cases.add("sce", ones, {"select_topk": select_topk}, merged)

    flat = torch.stack([tensor.flatten() for tensor in cases.tensors()])
    for ratio in (0.05, 0.1, 0.4, 1.0):
        merged, clamped, scale = pcb.PCB_merge(flat, pcb_ratio=ratio)
        cases.add("pcb", ones, {"pcb_ratio": ratio}, merged.reshape(SHAPE))
        # The coefficients that their search finds are on the clamped entries.
        lams = torch.tensor(mixed, dtype=torch.float64).unsqueeze(1)
        merged = torch.sum(clamped * lams * scale, dim=0) / torch.clamp(torch.sum(scale, dim=0), min=1e-12)
        cases.add("pcb", mixed, {"pcb_ratio": ratio}, merged.reshape(SHAPE))

    base = torch.zeros(flat.shape[1], dtype=torch.float64)
    for k, share in ((0, 0.4), (1, 0.4), (2, 0.4), (2, 0.2), (3, 0.6), (1, 1.0)):
        masks = tall.generate_task_masks(flat, flat, base, tall_mask_lambda=share)
        merged = flat.sum(dim=0) * (masks.float().sum(dim=0) >= k)
        cases.add("consensus", ones, {"prun_thre_k": k, "tall_mask_lambda": share}, merged.reshape(SHAPE))

    HERE.mkdir(exist_ok=True)
    save_file(cases.models, HERE / "entries.models.safetensors")
    save_file(cases.merges, HERE / "entries.safetensors")
    lines = ",\n".join(json.dumps(case) for case in cases.table)
    (HERE / "entries.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
