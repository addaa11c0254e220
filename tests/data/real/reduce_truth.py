#!/usr/bin/env python3
"""Cuts the full-size files of the trained digits model down to what the tests keep here.

    reduce_truth.py SOURCE

SOURCE holds `adapters/` and `truth/` as they came out of training. Written beside this script:
`truth/*.delta.safetensors`, a handful of layers each, unchanged float32, and
`adapters/invert.doralora.safetensors`, two modules of a DoRA file, unchanged float16.
The other adapters are plain copies.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent

# Two 3x3 convolutions (one with a single input channel), a 1x1 convolution, two linear layers.
LAYERS = {
    "conv_in.weight",
    "down_blocks.0.resnets.0.conv2.weight",
    "down_blocks.2.attentions.0.proj_out.weight",
    "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_v.weight",
    "up_blocks.2.resnets.0.time_emb_proj.weight",
}
# The small 3x3 layers have a full w2; these are the smallest where it is decomposed.
DECOMPOSED = {
    "italic.lokr4": {"up_blocks.1.resnets.1.conv1.weight"},
    "italic.lokr4tucker": {"down_blocks.1.resnets.0.conv2.weight"},
}
# `full` trained 31 modules: convolutions, linear layers, norms, most with a bias.
FULL_LAYERS = {
    f"{layer}.{parameter}"
    for layer in (
        "conv_in",
        "conv_norm_out",
        "conv_out",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.transformer_blocks.0.norm1",
        "up_blocks.2.resnets.1.conv_shortcut",
        "up_blocks.2.resnets.1.time_emb_proj",
    )
    for parameter in ("weight", "bias")
}
DORA_MODULES = {
    "lora_unet_conv_in",
    "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn2_to_v",
}
TRUTHS = [
    "italic.lora", "italic.loratucker", "italic.loha", "italic.lohatucker", "italic.lokr4",
    "italic.lokr4tucker", "italic.lokr8both", "italic.lokrfull", "italic.full", "dots.lokr4",
    "italic.doralora", "italic.doralokr",
]  # fmt: skip


def reduce(source: Path, target: Path, wanted: Callable[[str], bool]) -> None:
    """Copies the wanted tensors and the metadata of `source` to `target`."""
    with safe_open(source, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if wanted(key)}
        metadata = file.metadata()
    target.parent.mkdir(exist_ok=True)
    save_file(tensors, target, metadata)


def main() -> None:
    source = Path(sys.argv[1])
    for name in TRUTHS:
        layers = FULL_LAYERS if name.endswith(".full") else LAYERS | DECOMPOSED.get(name, set())
        path = Path("truth") / f"{name}.delta.safetensors"
        reduce(source / path, HERE / path, layers.__contains__)
    path = Path("adapters") / "invert.doralora.safetensors"
    reduce(source / path, HERE / path, lambda key: key.partition(".")[0] in DORA_MODULES)


if __name__ == "__main__":
    main()
