#!/usr/bin/env python3
"""Writes what other merge tools make of three small models, for the strategies that need norms and angles alone.

    make_strategies_gram.py

Needs torch, safetensors, mergekit 0.1.5, peft 0.21.2 and geom-median 0.1.0. Written to `strategies/` beside this script:

gram.N.safetensors   float64 models: `lora_unet_layer.diff`, `lora_unet_conv.diff` and a LoRA `lora_unet_peft`; the
                     third has no conv
gram.safetensors     float64 results, `CASE/LAYER`
gram.json            the cases: strategy, parameters, weights

Where a model lacks a layer the others' tools are given zeros: that is what it does there. Everything is called as
mergekit's methods call it, and on differences from a base of zeros.

Not to be had from mergekit: `multislerp`, whose step in the tangent space is zero, so that its result is the straight
mean's direction; one step of `karcher` is what it describes, and what is stored. Weights in `karcher`, which the method
ignores; the function under it takes them, and is called here. `model_stock` below t = 0, which turns the models around.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from geom_median.numpy import compute_geometric_median
from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge
from mergekit.merge_methods.karcher import karcher_merge_tensors
from mergekit.merge_methods.linear import linear_merge
from mergekit.merge_methods.model_stock import model_stock_merge_method
from mergekit.merge_methods.nuslerp import nuslerp
from mergekit.merge_methods.slerp import slerp
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

OUT = Path(__file__).parent / "strategies"


def models() -> list[dict[str, torch.Tensor]]:
    """Differences that have something in common, so that angles are neither right nor zero."""
    common = {"layer": torch.randn(9, 7), "conv": torch.randn(6, 4, 3, 3)}
    made = []
    for n in range(3):
        model = {name: common[name] * (0.5 + n) + torch.randn_like(common[name]) for name in common}
        if n == 2:
            model["conv"] = torch.zeros_like(model["conv"])
        made.append(model)
    return made


def group(tensors: list[torch.Tensor]) -> SimpleNamespace:
    """What mergekit hands a method: the tensors of the models, and of the base."""
    entries = [SimpleNamespace(id=n, tensor=tensor) for n, tensor in enumerate(tensors)]
    return SimpleNamespace(base=SimpleNamespace(tensor=torch.zeros_like(tensors[0])), non_base=entries)


def linear(tensors: list[torch.Tensor], weights: list[float], normalize: bool) -> torch.Tensor:
    batch = SimpleNamespace(tensors=[tensor[None] for tensor in tensors])
    return linear_merge.implementation(batch, weight=torch.tensor([weights]), normalize=normalize)[0]


def task_arithmetic(tensors: list[torch.Tensor], weights: list[float], **parameters: float) -> torch.Tensor:
    method = GeneralizedTaskArithmeticMerge(
        consensus_method=None,
        sparsification_method=None,
        default_normalize=False,
        default_rescale=False,
        method_name="task_arithmetic",
        method_pretty_name=None,
        method_reference_url=None,
    )
    shared = {"int8_mask": False, "rescale": False, "normalize": False, "lambda": 1.0, "weight": weights}
    return method.merge_group(group(tensors), **{**shared, **parameters})


def karcher(tensors: list[torch.Tensor], weights: list[float], **parameters: float) -> torch.Tensor:
    return karcher_merge_tensors(tensors, [weight / sum(weights) for weight in weights], **parameters)


def spherical(tensors: list[torch.Tensor], t: float) -> torch.Tensor:
    return slerp(torch.tensor([t]), tensors[0][None], tensors[1][None])[0]


def rowwise(tensors: list[torch.Tensor], weights: list[float], columns: bool) -> torch.Tensor:
    # The kernel belongs to the inputs.
    rows = [tensor.reshape(tensor.shape[0], -1) for tensor in tensors]
    t = weights[1] / sum(weights)
    return nuslerp(t, rows[0], rows[1], dim=0 if columns else -1, flatten=False).reshape(tensors[0].shape)


def median(tensors: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    points = [tensor.numpy().reshape(-1) for tensor in tensors]
    found = compute_geometric_median(points, torch.tensor(weights).numpy(), eps=1e-12, maxiter=100000, ftol=0.0)
    return torch.from_numpy(found.median).reshape(tensors[0].shape)


def stock(tensors: list[torch.Tensor], filter_wise: bool) -> torch.Tensor:
    # A filter is all of an output's numbers; mergekit takes the last extent, a line of the kernel, for one.
    rows = [tensor.reshape(tensor.shape[0], -1) for tensor in tensors]
    cosines = torch.nn.functional.cosine_similarity(rows[0], rows[1])
    assert not filter_wise or (cosines > 0).all(), "mergekit's t would be negative"
    return model_stock_merge_method.implementation(group(rows), filter_wise=filter_wise).reshape(tensors[0].shape)


def peft() -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Two LoRAs and PEFT's sums of them; the third model has zeros."""
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 10)), LoraConfig(r=2, target_modules=["0"]), "x")
    model.add_adapter("y", LoraConfig(r=3, lora_alpha=4, target_modules=["0"]))
    layer = model.base_model.model[0]
    files = []
    for name in ("x", "y"):
        torch.nn.init.normal_(layer.lora_B[name].weight)
        files.append(
            {
                "lora_unet_peft.lora_up.weight": layer.lora_B[name].weight.detach().clone(),
                "lora_unet_peft.lora_down.weight": layer.lora_A[name].weight.detach().clone(),
                "lora_unet_peft.alpha": torch.tensor(float(layer.lora_alpha[name])),
            }
        )
    sums = {}
    for kind in ("cat", "svd"):
        # An SVD at the rank that holds the sum.
        model.add_weighted_adapter(["x", "y"], [0.7, -0.4], kind, combination_type=kind, svd_rank=5)
        sums[kind] = layer.get_delta_weight(kind).detach().clone()
    return files, sums


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(8)
    OUT.mkdir(exist_ok=True)
    deltas = models()
    loras, sums = peft()
    for n, delta in enumerate(deltas):
        file = {f"lora_unet_{name}.diff": tensor for name, tensor in delta.items() if tensor.any()}
        save_file({**file, **(loras[n] if n < 2 else {})}, OUT / f"gram.{n}.safetensors")

    cases, results = [], {}

    def case(strategy: str, weights: list[float], merge: object, only: tuple[str, ...], **parameters: object) -> None:
        name = f"{len(cases)}_{strategy}"
        given = {key: str(value).lower() for key, value in parameters.items()}
        cases.append({"name": name, "strategy": strategy, "weights": weights, "parameters": given})
        for layer in only:
            tensors = [delta[layer].clone() for delta in deltas[: len(weights)]]
            results[f"{name}/{layer}"] = merge(tensors).contiguous()

    both, three, two = ("layer", "conv"), [0.5, 1.2, 0.9], [0.6, 1.1]
    for normalize in (True, False):
        case("linear", three, lambda x, n=normalize: linear(x, three, n), both, normalize=normalize)
        case(
            "task_arithmetic",
            [0.5, -1.2, 0.9],
            lambda x, n=normalize: task_arithmetic(x, [0.5, -1.2, 0.9], normalize=n, **{"lambda": 0.7}),
            both,
            normalize=normalize,
            **{"lambda": 0.7},
        )
    for t in (0.0, 0.3, 1.0):
        case("slerp", [1.0, 1.0], lambda x, t=t: spherical(x, t), both, t=t)
    case("slerp", [0.5, -1.5], lambda x: spherical([0.5 * x[0], -1.5 * x[1]], 0.4), both, t=0.4)
    case("nuslerp", two, lambda x: nuslerp(1.1 / 1.7, x[0], x[1], flatten=True), both)
    case("nuslerp", [2.0, -0.5], lambda x: nuslerp(-0.5 / 1.5, x[0], x[1], flatten=True), both)
    for columns in (False, True):
        case(
            "nuslerp",
            two,
            lambda x, c=columns: rowwise(x, two, c),
            both,
            nuslerp_flatten=False,
            nuslerp_row_wise=columns,
        )
    case("karcher", [1.0, 1.0, 1.0], lambda x: karcher(x, [1.0, 1.0, 1.0]), both)
    case("karcher", three, lambda x: karcher(x, three), both)
    case("karcher", three, lambda x: karcher(x, three, max_iter=2, tol=1e-9), both, max_iter=2, tol=1e-9)
    case("multislerp", three, lambda x: karcher(x, three, max_iter=1, tol=1e-12), both)
    exact = {"max_iter": 100000, "tol": 1e-14}
    case("geometric_median", three, lambda x: median(x, three), ("layer",), **exact)
    case("geometric_median", [1.0, 1.0, 1.0], lambda x: median(x, [1.0, 1.0, 1.0]), ("layer",), **exact)
    for filter_wise in (False, True):
        case("model_stock", [1.0, 1.0], lambda x, f=filter_wise: stock(x, f), ("conv",), filter_wise=filter_wise)
    case("model_stock", [1.0, 1.0, 1.0], lambda x: stock(x, False), ("layer",))
    for kind, delta in sums.items():
        case(kind, [0.7, -0.4], None, ())
        results[f"{cases[-1]['name']}/peft"] = delta
    save_file(results, OUT / "gram.safetensors")
    (OUT / "gram.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
