#!/usr/bin/env python3
"""The bake that everyone runs: the checkpoint in memory, every layer's ΔW added in float32, all of it saved.

    bake_torch.py OUT BASE IN...

Weights are found by what kohya's scripts call their modules. It is the baseline for speed.
"""

import sys

from safetensors.torch import load_file, save_file

from adapters import Adapter
from delta_svd import delta

PREFIXES = {
    "model.diffusion_model.": "lora_unet_",
    "conditioner.embedders.0.transformer.": "lora_te1_",
    "conditioner.embedders.1.model.": "lora_te2_",
}


def module(key: str) -> str:
    for long, short in PREFIXES.items():
        if key.startswith(long):
            return short + key.removeprefix(long).removesuffix(".weight").replace(".", "_")
    return key


def main() -> None:
    output, base, *inputs = sys.argv[1:]
    weights = load_file(base)
    keys = {module(key): key for key in weights if key.endswith(".weight")}
    for path in inputs:
        adapter = Adapter(path)
        for name in adapter.modules:
            weight = weights[keys[name]]
            weight.copy_(weight.float() + delta(adapter, name).reshape(weight.shape))
    save_file(weights, output)


if __name__ == "__main__":
    main()
