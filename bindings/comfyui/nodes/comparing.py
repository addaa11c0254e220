"""Inspect / Compare Adapters: what adapters are, how they stand to each other, and what storing their merge costs."""

from __future__ import annotations

import io
from typing import Any

import lycomerge
import numpy
import torch
from PIL import Image

from . import host
from .recipe import Input, Recipe
from .stacking import Entry


class Compare(host.WithBase):
    """Looks into adapters."""

    CATEGORY = host.CATEGORY
    DESCRIPTION = (
        "What each adapter is; how alike they are, by cosine and by block; and how large the file of their merge would "
        "be at which error."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("comparison", "size_against_error", "report")
    OUTPUT_TOOLTIPS = (
        "Cosines of every two adapters, and norms by block",
        "File size against error, for every format",
        "The same in words and numbers",
    )
    FUNCTION = "compare"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The adapters and their weights"}),
                "dark": ("BOOLEAN", {"default": True, "tooltip": "Light on dark, not dark on light"}),
            },
            "optional": {"base": host.base_widget()},
        }

    def compare(self, lora_stack: list[Entry], dark: bool, base: str = host.NO_BASE) -> dict[str, Any]:
        if not lora_stack:
            raise ValueError("the stack has no adapters: connect an Adapter Loader")
        recipe = Recipe([Input.of(entry, "") for entry in lora_stack], {}, None if base == host.NO_BASE else base)
        merge = recipe.merge()
        comparison = merge.compare(host.progress())
        plan = merge.plan(host.progress())
        pictures = [_image(made.picture(kind="png", dark=dark)) for made in (comparison, plan)]
        inspected = [
            _inspected(number, recipe.open(number - 1), name) for number, (name, *_) in enumerate(lora_stack, 1)
        ]
        parts = (inspected, _compared(comparison.data), host.qualities(plan.data))
        text = "\n\n".join("\n".join(lines) for lines in parts)
        return {"ui": {"text": [text]}, "result": (*pictures, text)}


def _image(png: bytes) -> Any:
    """A picture as ComfyUI has it: a batch of one, height × width × 3, from 0 to 1."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = numpy.array(picture.convert("RGB"), dtype=numpy.float32) / 255
    return torch.from_numpy(pixels)[None]


def _inspected(number: int, adapter: lycomerge.Adapter, name: str) -> str:
    found = lycomerge.inspect(adapter)
    ranks = ", ".join(str(rank) for rank in found.ranks)
    facts = [found.kind, f"{found.layers} layers", host.size(found.byte_len), "/".join(found.dtypes)]
    if ranks:
        facts.append(f"rank {ranks}")
    if version := found.metadata.get("ss_base_model_version"):
        facts.append(version)
    return f"{number}: {name}: {', '.join(facts)}"


def _compared(data: dict[str, Any]) -> list[str]:
    """Norms, cosines, and what the library advises."""
    inputs = data["inputs"]
    lines = [f"norm of {number}: {given['norm']:.3g}" for number, given in enumerate(inputs, 1)]
    for one in range(len(inputs)):
        for other in range(one + 1, len(inputs)):
            lines.append(
                f"{one + 1} and {other + 1}: cosine {data['cosines'][one][other]:.2f}, "
                f"shared subspace {host.percent(data['overlaps'][one][other])}, "
                f"signs against each other {host.percent(data['sign_conflicts'][one][other])}"
            )
    return lines + list(data["advice"])
